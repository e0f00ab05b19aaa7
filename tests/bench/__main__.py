"""All benchmarks, one after the other: `make bench`."""

from tests.bench import baselines, collectives, distillation, equivalence, loader, optimizers

if __name__ == "__main__":
    equivalence.main()
    collectives.main()
    baselines.main([])
    distillation.main()
    optimizers.main()
    loader.main()
