"""What the network computes: mathematics and Linen parameter holders, with no mesh, data or config file."""

from .attention import MASKED as MASKED
from .attention import attention as attention
from .beam import EARLY_STOPPING as EARLY_STOPPING
from .beam import Beams as Beams
from .beam import beam_search as beam_search
from .cache import KVCache as KVCache
from .cache import init_cache as init_cache
from .choice import Choice as Choice
from .choice import parse_choice as parse_choice
from .config import TransformerConfig as TransformerConfig
from .flops import count_params as count_params
from .flops import forward_flops as forward_flops
from .generate import Continuation as Continuation
from .generate import advance as advance
from .generate import begin as begin
from .generate import generate as generate
from .generate import row_keys as row_keys
from .moe import EXPERT_AXES as EXPERT_AXES
from .moe import dropless as dropless
from .sampling import GREEDY as GREEDY
from .sampling import Sampling as Sampling
from .sampling import sample as sample
from .stack import REMAT_POLICIES as REMAT_POLICIES
from .stack import loop_layers as loop_layers
from .stack import scan_layers as scan_layers
from .transformer import Transformer as Transformer
