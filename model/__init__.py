"""What the network computes: mathematics and Linen parameter holders, with no mesh, data or config file."""

from .attention import MASKED as MASKED
from .attention import attention as attention
from .cache import KVCache as KVCache
from .cache import init_cache as init_cache
from .config import TransformerConfig as TransformerConfig
from .flops import count_params as count_params
from .flops import forward_flops as forward_flops
from .generate import generate as generate
from .generate import sample as sample
from .moe import EXPERT_AXES as EXPERT_AXES
from .moe import dropless as dropless
from .stack import REMAT_POLICIES as REMAT_POLICIES
from .stack import loop_layers as loop_layers
from .stack import scan_layers as scan_layers
from .transformer import Transformer as Transformer
