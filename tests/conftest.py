"""Eight simulated CPU devices, strict dtype promotion, and a small corpus that all tests share."""

import importlib.metadata
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a third less to compile; later ones know no such flags
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["NPROC"] = "24"  # threads of XLA: collectives that wait in one each must leave some for the other devices
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # what tests wait for is the compiler of machine code
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # XLA's warnings are heard, see test_collectives.py
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax  # noqa: E402
import pytest  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from configs import base  # noqa: E402
from data import Corpus, prepare  # noqa: E402


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Makes xdist's groups hold: version 3.8 writes them where pytest 9.2 no longer looks (pytest-xdist#1386)."""
    for item in items:
        if "@" in (grouped := getattr(item, "_nodeid", "")) and hasattr(item, "_id"):
            item._id = type(item._id).parse(grouped)


@pytest.fixture(autouse=True)
def _strict_promotion(request: pytest.FixtureRequest):
    """No hidden casts in what the model tests call; Optax has some, so the others run as users do."""
    mode = "strict" if request.path.name.startswith("test_model") else "standard"
    with jax.numpy_dtype_promotion(mode):
        yield


def tiny_config(directory: Path) -> ConfigDict:
    """A model of a few thousand parameters on a few documents, its data under `directory`."""
    config = base.get_config()
    config.name = "test"
    config.model.update(num_layers=2, d_model=32, num_heads=4, num_kv_heads=2, d_mlp=64)
    config.data.update(source=f"text,path={directory / 'text'}", dir=str(directory / "prepared"))
    config.data.update(valid_fraction=0.3, vocab_size=300, seq_len=32, batch_size=8, read_threads=0, prefetch=1)
    config.optimizer.update(warmup_steps=2, learning_rate=0.01)
    config.train.update(steps=10, log_every=1, eval_every=0, checkpoint_every=100)
    config.sample.update(prompts=("the ",), max_tokens=4)
    config.compile_cache = ""
    return config


@pytest.fixture(scope="session")
def corpus_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty documents of uneven lengths, prepared once for all workers."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "corpus"
    text = directory / "text"
    words = ["the", "model", "sees", "tokens", "and", "learns", "which", "of", "them", "comes", "next"]
    words += ["in", "a", "row", "of", "many", "words"]
    for i in range(20):
        name = text / f"{i}.txt"
        name.parent.mkdir(parents=True, exist_ok=True)
        content = " ".join(words[(i * j * j + 3 * j) % len(words)] for j in range(5 + 17 * (i % 7))) + f"\nend {i}.\n"
        if not name.exists():  # xdist workers share the directory; the files' times are part of the fingerprint
            temporary = text / f".{i}.{os.getpid()}"
            temporary.write_text(content)
            os.utime(temporary, (1_700_000_000, 1_700_000_000))
            temporary.rename(name)
    prepare(tiny_config(directory).data, log=lambda line: None)
    return directory


@pytest.fixture
def config(corpus_directory: Path) -> ConfigDict:
    """A fresh copy of the tiny config for each test."""
    return tiny_config(corpus_directory)


@pytest.fixture
def corpus(config: ConfigDict) -> Corpus:
    return prepare(config.data)
