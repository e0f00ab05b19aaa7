"""Where arrays live and how devices talk."""

from .distributed import DistributedConfig as DistributedConfig
from .distributed import barrier as barrier
from .distributed import ends_together as ends_together
from .distributed import exchange as exchange
from .distributed import in_turns as in_turns
from .distributed import is_distributed as is_distributed
from .distributed import name_of as name_of
from .distributed import publish_once as publish_once
from .distributed import published as published
from .distributed import start as start
from .mesh import AXES as AXES
from .mesh import MeshConfig as MeshConfig
from .mesh import check_platform as check_platform
from .mesh import has_accelerator as has_accelerator
from .mesh import make_mesh as make_mesh
from .sharding import BATCH_AXES as BATCH_AXES
from .sharding import RULES as RULES
from .sharding import batch_sharding as batch_sharding
from .sharding import local_rows as local_rows
from .sharding import make_rules as make_rules
from .sharding import on_mesh as on_mesh
from .sharding import shard_batch as shard_batch
from .sharding import to_host as to_host
from .sharding import tree_shardings as tree_shardings
from .shared import check_shared as check_shared
