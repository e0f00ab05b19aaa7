"""Rows that many tables of weight names have: a projection with its bias, a norm, the projections of an attention."""

# Patterns of projections that are stored as (out, in), as most are, and of their biases.
QUERY, QUERY_BIAS = "(N H) D -> D N H", "(N H) -> N H"
KEY, KEY_BIAS = "(K H) D -> D K H", "(K H) -> K H"
OUT = "D (N H) -> N H D"


def dense(name: str, weight: str, bias: str) -> dict[str, str]:
    """A projection and its bias, whose path lies beside the weight's."""
    return {f"{name}.weight": weight, f"{name}.bias": f"{weight.partition(':')[0].rpartition('/')[0]}/{bias}"}


def norm(name: str, path: str) -> dict[str, str]:
    """A norm and its bias."""
    return {f"{name}.weight": f"{path}/scale: D", f"{name}.bias": f"{path}/bias: D"}


def attention(path: str, *, query: str, key: str, value: str, out: str) -> dict[str, str]:
    """The four projections of an attention at `path`, by their names."""
    return {
        **dense(query, f"{path}/w_q: {QUERY}", f"b_q: {QUERY_BIAS}"),
        **dense(key, f"{path}/w_k: {KEY}", f"b_k: {KEY_BIAS}"),
        **dense(value, f"{path}/w_v: {KEY}", f"b_v: {KEY_BIAS}"),
        **dense(out, f"{path}/w_out: {OUT}", "b_out: D"),
    }


def mlp(path: str, *, first: str, last: str) -> dict[str, str]:
    """The two projections of a plain MLP at `path`."""
    return {
        **dense(first, f"{path}/w_in: F D -> D F", "b_in: F"),
        **dense(last, f"{path}/w_out: D F -> F D", "b_out: D"),
    }
