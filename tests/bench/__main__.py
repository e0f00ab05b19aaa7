"""All benchmarks, one after the other: `make bench`."""

from tests.bench import (
    baselines,
    collectives,
    distillation,
    equivalence,
    loader,
    memory,
    optimizers,
    pod_table,
    ranking,
    tasks,
)

if __name__ == "__main__":
    equivalence.main()
    collectives.main()
    memory.main()
    ranking.main()
    pod_table.main()
    baselines.main([])
    tasks.main([])
    distillation.main()
    optimizers.main()
    loader.main()
