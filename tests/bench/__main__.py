"""All benchmarks but those beside peers, which need the machine's own devices: see `make bench`."""

from tests.bench import (
    ablations,
    baselines,
    checkpoints,
    collectives,
    compiler_options,
    distillation,
    equivalence,
    loader,
    memory,
    mup,
    optimizers,
    pod_table,
    precision,
    quality,
    ranking,
    scaling,
    tasks,
)

if __name__ == "__main__":
    equivalence.main()
    collectives.main()
    memory.main()
    ranking.main()
    pod_table.main()
    compiler_options.main()
    quality.main([])
    baselines.main([])
    tasks.main([])
    distillation.main()
    precision.main()
    optimizers.main()
    mup.main()
    ablations.main()
    scaling.main()
    loader.main()
    checkpoints.main()
