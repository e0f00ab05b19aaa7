"""Where arrays live and how devices talk."""

from .context import all_to_all_attention as all_to_all_attention
from .context import ring_attention as ring_attention
from .context import zigzag_order as zigzag_order
from .expert import exchange_experts as exchange_experts
from .mesh import AXES as AXES
from .mesh import MeshConfig as MeshConfig
from .mesh import check_platform as check_platform
from .mesh import has_accelerator as has_accelerator
from .mesh import make_mesh as make_mesh
from .pipeline import Pieces as Pieces
from .pipeline import pipeline_value_and_grad as pipeline_value_and_grad
from .schedules import Schedule as Schedule
from .schedules import make_schedule as make_schedule
from .sharding import BATCH_AXES as BATCH_AXES
from .sharding import RULES as RULES
from .sharding import batch_sharding as batch_sharding
from .sharding import local_rows as local_rows
from .sharding import make_rules as make_rules
from .sharding import on_mesh as on_mesh
from .sharding import shard_batch as shard_batch
from .sharding import to_host as to_host
from .sharding import tree_shardings as tree_shardings
