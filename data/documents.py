"""The examples of a corpus as a TFDS dataset in ArrayRecord. Imported where they are needed: TFDS is slow to load."""

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

Splits = Mapping[str, Callable[[], Iterator[tuple[str, str]]]]


class Documents(tfds.core.GeneratorBasedBuilder):
    """Examples with their names, in the order they are given.

    Args:
        splits: for each split a function that yields (name, content).
        column: what the content is: "text" or "json".
    """

    VERSION = tfds.core.Version("1.0.0")
    pkg_dir_path = epath.Path(__file__).parent

    def __init__(self, *, splits: Splits, column: str, **kwargs: Any):
        self._splits, self._column = splits, column
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({"name": tfds.features.Text(), self._column: tfds.features.Text()})
        return self.dataset_info_from_configs(features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for i, (name, content) in enumerate(self._splits[split]()):
            yield i, {"name": name, self._column: content}


def write_documents(directory: Path, splits: Splits, *, column: str = "text") -> dict[str, Any]:
    """Writes a dataset and opens it.

    Args:
        directory: where to.
        splits: as `Documents` takes them; they are read one after the other.
        column: as `Documents` takes it.

    Returns:
        For each split a random-access source of {"name": bytes, column: bytes}.

    Raises:
        OSError: it cannot be written.
    """
    logging.set_verbosity(logging.WARNING)
    tfds.disable_progress_bar()
    builder: Any = Documents(splits=splits, column=column, data_dir=str(directory), file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks of downloading, which is not what happens
        try:
            builder.download_and_prepare(file_format="array_record")
        except RuntimeError as error:  # ArrayRecord's word for a failed write
            raise OSError(str(error)) from error
        except AssertionError as error:  # and of TFDS for a split without examples
            raise ValueError(
                f"{error} Each is left out, as a repetition, as a copy of one that validates, or by config.data.filters"
            ) from error
    shutil.rmtree(directory / "downloads", ignore_errors=True)  # TFDS makes it, empty
    return {split: builder.as_data_source(split=split) for split in splits}


def open_documents(directory: Path, split: str) -> Any:
    """What `write_documents` returned for a split.

    Raises:
        ValueError: it is not there, or damaged.
    """
    (info,) = [*directory.glob("*/*/dataset_info.json")] or [None]
    if info is None:
        raise ValueError(f"{directory} holds no dataset; delete the folder of the corpus to prepare it anew")
    builder: Any = tfds.builder_from_directory(str(info.parent))
    return builder.as_data_source(split=split)
