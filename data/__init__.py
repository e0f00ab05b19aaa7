"""Text in, arrays out; imports no JAX code of the project and starts no JAX device."""

from .batches import TrainingRows as TrainingRows
from .batches import blank_row as blank_row
from .batches import eval_batches as eval_batches
from .batches import make_batches as make_batches
from .batches import open_rows as open_rows
from .config import DataConfig as DataConfig
from .preparation import prepare as prepare
from .ramp import Ramp as Ramp
from .ramp import make_ramp as make_ramp
from .sources import SOURCES as SOURCES
from .sources import Broken as Broken
from .sources import Example as Example
from .sources import Source as Source
from .store import Corpus as Corpus
from .store import open_corpus as open_corpus
from .tasks import TASKS as TASKS
from .tasks import make_task as make_task
from .tokenizer import Tokenizer as Tokenizer
from .tokenizer_files import load_tokenizer as load_tokenizer
from .windows import Windows as Windows
