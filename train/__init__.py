"""Brings model, parallel and data together: objective, optimizer, step, loop, checkpoint, metrics, evaluation."""

from .compose import make_model as make_model
from .compose import preflight as preflight
from .depth import with_depth as with_depth
from .evaluation import evaluate as evaluate
from .evaluation import make_eval_step as make_eval_step
from .loop import fit as fit
from .objective import OBJECTIVES as OBJECTIVES
from .optimizer import OPTIMIZERS as OPTIMIZERS
from .schedule import SCHEDULES as SCHEDULES
from .state import TrainState as TrainState
from .state import init_state as init_state
from .step import make_train_step as make_train_step
