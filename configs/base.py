"""Every field, its default and what it means. A run is a file beside this one that changes a few.

    python -m train --config configs/base.py --workdir runs/base --config.train.steps=200

That takes five minutes on two cores of an Intel Xeon with AVX-512 and reaches 1.85 bits per byte on the held-out files.
The defaults are a small GPT that suits a first look; sizes and schedule are global, whatever the number of devices.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The base config."""
    config = ConfigDict()
    config.name = "base"  # shown in logs and in the title of the loss curve
    config.seed = 0  # of initialisation, data order, dropout and samples
    config.init_from = ""  # a run's workdir, or an imported model's: its parameters, model and tokenizer are taken
    config.platform = "auto"  # auto, cpu, gpu or tpu; a named one that is not there is an error
    config.compile_cache = "~/.cache/palmette/xla"  # compiled programs are kept here between runs; "" is off

    model = config.model = ConfigDict()
    model.architecture = "decoder"  # decoder, encoder or encoder_decoder[,encoder_layers=6]
    model.depth = 0  # 8: derive sizes, batch, steps and learning rate of a compute-optimal run from it (train/depth.py)
    model.num_layers = 4  # blocks; of an encoder-decoder, those of its decoder
    model.d_model = 256  # width of the residual stream
    model.num_heads = 4  # query heads
    model.num_kv_heads = 4  # key and value heads, a divisor of num_heads
    model.head_dim = 0  # 0: d_model / num_heads
    model.d_mlp = 1024  # hidden width of the MLP, or of each expert
    model.max_length = 0  # learned positions; 0: data.seq_len
    model.activation = "gelu"  # relu, gelu (by tanh), gelu_exact, silu, squared_relu; gated: swiglu, geglu, reglu, ...
    model.block = "pre"  # where a layer's norms are: pre, post, output, both, parallel; or lstm (model/config.py)
    model.norm = "rmsnorm"  # rmsnorm, layernorm or zero_centered_rmsnorm
    model.norm_eps = 1e-6  # added to the mean square under the root
    model.position = "rope"  # rope[,fraction=0.25][,local_theta=10000], learned[,offset=2], sinusoidal, relative, none
    model.rope_theta = 10000.0  # rope: base of the wavelengths
    model.rope_scaling = ""  # rope: linear,factor=8 or llama3, yarn, longrope with their numbers (model/rope.py)
    model.bias = "none"  # none, qkv, or all: on every projection and on LayerNorm
    model.tie_embeddings = True  # the head is the embedding table
    model.embedding_norm = "none"  # none, norm, or first: in the place of the first layer's first norm too
    model.embedding_scale = 1.0  # factor of the token embeddings
    model.token_types = 0  # rows of the table of token types, as BERT's; 0: none
    model.head = "linear"  # linear, bias, or transform: projection, activation, norm, and a bias
    model.logit_scale = 1.0  # factor of the vocabulary logits
    model.classifier = ""  # first,classes=3 on the first token, or tanh (BERT's pooler), mean, last, tokens (each)
    model.image = ""  # patches,size=224,patch=16: the input is images
    model.qk_norm = "none"  # RMS-normalise queries and keys: head by head, all together, or none
    model.attention = "auto"  # auto, plain, blocked[,block=64], splash[,block=512][,fused_backward=1] or cudnn
    model.attention_scale = 0.0  # factor of the attention logits; 0: 1 / sqrt(head_dim)
    model.attention_soft_cap = 0.0  # bound on attention logits; 0: off
    model.logit_soft_cap = 0.0  # bound on vocabulary logits; 0: off
    model.window = 0  # sliding window of attention, in positions; 0: off
    model.window_ramp = ""  # doubling,start=64,steps=300: until then 64, 128, ... up to window, or seq_len if off
    model.layer_pattern = ""  # layers with the window, L, and without, G, repeated, such as LLLLLG; "": all L
    model.latent_attention = ""  # latent,kv=512,rope=64,value=128[,query=1536]: keys and values from few numbers
    model.value_mix = ""  # mixed into the values: first_layer, embedding[,tables=2], or first_layer+embedding
    model.dropout = 0.0  # on the embedding and on each block's outputs
    model.init = "standard"  # standard or mup,width=256; [,std=0.02][,zero_outputs=1] (model/init.py)
    model.vocab_multiple = 128  # the vocabulary is padded to a multiple of this
    model.num_experts = 0  # MLPs that a router chooses from for each token; 0: one MLP for all
    model.experts_per_token = 2  # experts chosen for a token
    model.d_expert = 0  # hidden width of an expert; 0: d_mlp
    model.d_shared_expert = 0  # hidden width of an MLP for all tokens beside the experts; 0: none
    model.num_dense_layers = 0  # first layers that have no experts
    model.router = "softmax"  # softmax or sigmoid[,normalize=0][,groups=8,top_groups=4][,scale=2.5]
    model.expert_capacity = 0.0  # an expert takes this many times its even share of a row at most; 0: all it is given
    model.balance_loss = 0.01  # weight of the loss that evens out the experts' loads
    model.router_z_loss = 0.001  # weight of log(Z)^2 of the router, which keeps its logits from drifting
    model.balance_bias_rate = 0.0  # how far an update moves the bias that evens out the loads without a loss; 0: off
    model.dtype = "float32"  # of activations and matmuls: float32 or bfloat16[,products=int8], or float8
    model.remat = "none"  # activations computed again: none, full, dots, attention, projections, names (model/remat.py)
    model.scan_unroll = 1  # layers in one iteration of the loop over layers

    data = config.data = ConfigDict()
    data.source = "stdlib"  # kind,option=value, such as text,path=~/texts; parts of a mixture are joined by " + "
    data.valid_source = ""  # a source of the validation split; "": it is held out of data.source
    data.dir = "~/.cache/palmette/data"  # prepared corpora are kept here
    data.valid_fraction = 0.05  # share of documents held out, by the SHA-1 of their names
    data.filters = ()  # what to leave out: length,min=200 regex,drop=... quality near_duplicates,threshold=0.8
    data.chunk_bytes = 0  # cut documents into pieces of at most this size at line ends; 0: never
    data.task = "causal_lm"  # what is learned, with options: masked_lm,rate=0.3, classification, ... (data/tasks)
    data.max_bad_records = 0.01  # share that may be unreadable and is left out; 0: the first one is an error
    data.tokenizer = "bpe"  # bpe or unigram[,extra_ids=100], or the path of a tokenizer.json, a .model or their folder
    data.vocab_size = 4096  # token ids, the 4 special ones and 256 bytes included; a given tokenizer may have fewer
    data.tokenizer_bytes = 20_000_000  # about how much text the tokenizer is trained on
    data.seq_len = 256  # tokens in a row: a window of text, one labelled example, or several
    data.batch_size = 16  # rows in a step, over all devices
    data.batch_ramp = ""  # doubling,start=4,steps=300: the first 300 steps have fewer rows, in equal parts 4, 8, ...
    data.packing = True  # fill rows with several documents or examples; False: a row has one, padded
    data.augment = ()  # changes to training texts: token_dropout, delete, swap[,rate=0.1], or yours (data/augment.py)
    data.read_threads = 2  # threads that read batches ahead
    data.prefetch = 8  # batches read ahead

    optimizer = config.optimizer = ConfigDict()
    optimizer.name = "adamw"  # adamw[,b1=0.9][,b2=0.95][,eps=1e-8], muon, soap, ... (train/optimizer.py)
    optimizer.learning_rate = 1e-3  # the peak
    optimizer.weight_decay = 0.1  # times the learning rate; sgd, rmsprop, adam: in the gradient; muon: hidden matrices
    optimizer.ema = 0.0  # decay of an average of the weights, which evaluation and export then use; 0: off
    optimizer.no_decay = "norm|bias|/b_|/b$|embedding|positions|token|value_mix"  # of parameters that are not decayed
    optimizer.layer_decay = 1.0  # factor of the learning rate from each layer to the one below it; 1: none
    optimizer.clip_norm = 1.0  # global norm of the gradients; 0: off
    optimizer.schedule = "cosine"  # constant, inverse_sqrt; [,final_fraction=0.1]: linear, cosine, wsd[,decay_steps=0]
    optimizer.warmup_steps = 100  # updates until the peak

    mesh = config.mesh = ConfigDict()
    mesh.auto = False  # choose the axes, train.microbatch_rows and model.remat for the devices at hand (train/plan.py)
    mesh.stage = 1  # pipeline stages
    mesh.data = -1  # replicas of the parameters; -1: the devices that are left
    mesh.fsdp = 1  # shards of parameters and optimizer state
    mesh.expert = 1  # shards of the experts
    mesh.context = 1  # shards of the sequence
    mesh.context_attention = "ring"  # context > 1: ring, or all_to_all, which needs heads for context * tensor shards
    mesh.tensor = 1  # shards of heads, mlp and vocabulary
    mesh.schedule = "1f1b"  # of the stages: gpipe, 1f1b, interleaved[,chunks=2] or zero_bubble[,chunks=1]
    mesh.num_slices = 1  # groups of devices that only a slower network joins: TPU slices, GPU hosts
    mesh.slice_axes = "stage+data+fsdp"  # axes that may cross it, the first as far as it goes
    mesh.allow_idle = False  # accept a mesh smaller than the devices at hand
    mesh.rules = "zero3"  # what fsdp divides: zero1 moments, zero2 gradients too, zero3 parameters too
    mesh.replaced_rules = ""  # rules to replace in parallel/sharding.py, such as "embed=,vocab=fsdp+tensor"

    distributed = config.distributed = ConfigDict()
    distributed.coordinator = ""  # host of process 0; "": as parallel.launch or the cluster says, if any
    distributed.port = 8476  # of the coordination service there, open between the hosts; 0: JAX's choice
    distributed.num_processes = 0  # of the run; 0: as the launcher or the cluster says
    distributed.process_id = -1  # of this process; -1: as the launcher or the cluster says
    distributed.num_devices = 0  # that all processes together must see; 0: any
    distributed.timeout_s = 180  # for the start, for barriers, and until a silent process counts as dead

    train = config.train = ConfigDict()
    train.objective = "auto"  # as data.task asks[,chunk=512]; distill,teacher=WORKDIR[,temperature=2][,weight=0.5],...
    train.parameters = "all"  # trained: all, matching,names=REGEX, frozen,names=REGEX or lora[,rank=8][,names=][,also=]
    train.steps = 1000  # updates of the whole run
    train.microbatch_rows = 0  # rows of a device in one pass; fewer than its share accumulates gradients; 0: all
    train.z_loss = 0.0  # weight of log(Z)^2, which keeps logits from drifting
    train.log_every = 10  # steps from one line of metrics to the next
    train.eval_every = 250  # steps; 0: only at the end
    train.eval_batches = 16  # batches of an evaluation on the way; 0: the whole split, as at the end
    train.best = ""  # METRIC[,mode=max][,patience=3]: keep and use the best evaluation; end after 3 no better ones
    train.checkpoint_every = 250  # steps; the last is always saved
    train.keep_checkpoints = 2  # the newest are kept
    train.keep_every = 0  # checkpoints at multiples of this are kept for good; 0: none

    sample = config.sample = ConfigDict()
    sample.prompts = ("def ", "import ", "class ")  # continued at the end of a task that writes; () is none
    sample.max_tokens = 48  # length of a sample
    sample.strategy = "sample"  # greedy, sample[,temperature=0.8][,top_k=0][,top_p=0.95][,min_p=0.05] or beam[,beams=4]
    sample.stop = ()  # texts that end a sample before them, such as ("\n\n",)
    return config
