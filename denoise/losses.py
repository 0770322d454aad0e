"""Four preference losses L(x, y_w ≻ y_l) and the margins Δ = L(y_l ≻ y_w) − L(y_w ≻ y_l).

The margin is the log-odds the model gives to the label: p = σ(Δ) (Eq. 2 of RE-PO, Cao et al.,
arXiv 2509.24159). Every argument that ends in `logps` is a sum of response log-probs in nats,
`tokens` their number; `w` is the preferred response and `l` the other. Swapping the two negates
every margin, exactly, so a margin of a over b is the margin along a vote for a.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from denoise.errors import refuse

Floats = NDArray[np.float64]

LOSSES = ("dpo", "ipo", "simpo", "cpo")
NEEDS_REFERENCE = frozenset({"dpo", "ipo"})

BETA = MappingProxyType({"dpo": 0.1, "ipo": 0.1, "simpo": 2.0, "cpo": 0.1})
"""Default β: TRL 1.16's (`DPOConfig.beta`, `CPOConfig.beta`); for SimPO that of its authors' code
(`SimPOConfig.beta`), because TRL's 0.1 on a log-prob per token makes a margin of nearly 0."""

GAMMA = 0.5
"""Default γ of SimPO: TRL 1.16's `simpo_gamma`, and with β = 2 that of the authors' code, whose
`gamma_beta_ratio` of 0.25 is γ/β. γ here is the paper's and TRL's: −log σ(d̄ − γ), not a ratio."""


class PairLogps(NamedTuple):
    """Log-probs of pairs, each an array [n]; `ref` may be None for SimPO and CPO.

    `policy_*` and `ref_*` are sums over response tokens in nats, `tokens_*` how many there are.
    """

    policy_w: ArrayLike
    policy_l: ArrayLike
    ref_w: ArrayLike | None
    ref_l: ArrayLike | None
    tokens_w: ArrayLike
    tokens_l: ArrayLike

    def swapped(self) -> PairLogps:
        """The same pairs with the other response preferred."""
        return PairLogps(
            self.policy_l, self.policy_w, self.ref_l, self.ref_w, self.tokens_l, self.tokens_w
        )


def margin(
    loss: str,
    logps: PairLogps,
    *,
    beta: float | None = None,
    gamma: float | None = None,
    per_token: bool = True,
) -> Floats:
    """Δ of the named loss, shape [n], nats; `beta` and `gamma` default to `BETA` and `GAMMA`.

    `gamma` is SimPO's alone, and `per_token` IPO's.

    Raises:
        InputError: the loss is unknown, or is DPO or IPO and a reference log-prob is missing.
    """
    return _DISPATCH[_known(loss, logps)].margin(logps, *_constants(loss, beta, gamma, per_token))


def loss_value(
    loss: str,
    logps: PairLogps,
    *,
    beta: float | None = None,
    gamma: float | None = None,
    per_token: bool = True,
) -> Floats:
    """L(x, y_w ≻ y_l) of the named loss, shape [n], nats; arguments and errors as `margin`."""
    return _DISPATCH[_known(loss, logps)].value(logps, *_constants(loss, beta, gamma, per_token))


def dpo_margin(logps: PairLogps, beta: float) -> Floats:
    """Δ = βh, where h is the policy's log-ratio less the reference's, shape [n]."""
    return beta * _log_ratio(logps)


def dpo_loss(logps: PairLogps, beta: float) -> Floats:
    """L = −log σ(βh) (Rafailov et al., arXiv 2305.18290, Eq. 7), shape [n]."""
    return _softplus(-dpo_margin(logps, beta))


def ipo_margin(logps: PairLogps, beta: float, per_token: bool = True) -> Floats:
    """Δ = 2h/β, shape [n]: (−h − 1/2β)² − (h − 1/2β)² multiplied out.

    With `per_token`, h is a difference of per-token means as in TRL; else the paper's sums.
    """
    return (2.0 / beta) * _ipo_ratio(logps, per_token)


def ipo_loss(logps: PairLogps, beta: float, per_token: bool = True) -> Floats:
    """L = (h − 1/2β)² (Azar et al., arXiv 2310.12036, Eq. 17), shape [n]."""
    return (_ipo_ratio(logps, per_token) - 1.0 / (2.0 * beta)) ** 2


def simpo_margin(logps: PairLogps, beta: float, gamma: float) -> Floats:
    """Δ = log σ(d̄ − γ) − log σ(−d̄ − γ), shape [n]; d̄ is β times the per-token means' difference.

    γ does not cancel: where |d̄| < γ the margin is about 2d̄·σ(γ), and d̄ + γ·sign(d̄) far beyond.
    """
    difference = _simpo_difference(logps, beta)
    return _softplus(difference + gamma) - _softplus(gamma - difference)


def simpo_loss(logps: PairLogps, beta: float, gamma: float) -> Floats:
    """L = −log σ(d̄ − γ) (Meng et al., arXiv 2405.14734, Eq. 6), shape [n]."""
    return _softplus(gamma - _simpo_difference(logps, beta))


def cpo_margin(logps: PairLogps, beta: float) -> Floats:
    """Δ = (β + 1)·d, d = log π(y_w) − log π(y_l), shape [n].

    The 1 is the log-likelihood term of the loss: −log π(y_l) + log π(y_w) = d.
    """
    return (beta + 1.0) * _difference(logps)


def cpo_loss(logps: PairLogps, beta: float) -> Floats:
    """L = −log σ(β·d) − log π(y_w) (Xu et al., arXiv 2401.08417, Eq. 4), shape [n].

    TRL averages the second term over the tokens of a batch, so only the first can be compared.
    """
    return _softplus(-beta * _difference(logps)) - np.asarray(logps.policy_w, np.float64)


class _Loss(NamedTuple):
    margin: Callable[..., Floats]
    value: Callable[..., Floats]


_DISPATCH = {
    "dpo": _Loss(dpo_margin, dpo_loss),
    "ipo": _Loss(ipo_margin, ipo_loss),
    "simpo": _Loss(simpo_margin, simpo_loss),
    "cpo": _Loss(cpo_margin, cpo_loss),
}


def _known(loss: str, logps: PairLogps) -> str:
    if loss not in LOSSES:
        refuse("unknown loss", found=loss, fix=f"it is one of {', '.join(LOSSES)}")
    if loss in NEEDS_REFERENCE:
        for values in (logps.ref_w, logps.ref_l):
            if values is None or np.isnan(np.asarray(values, np.float64)).any():
                refuse(
                    f"the loss {loss} needs reference log-probs, and some are missing",
                    fix="score again with --reference, or use --loss simpo or cpo",
                )
    return loss


def _constants(
    loss: str, beta: float | None, gamma: float | None, per_token: bool
) -> tuple[float, ...]:
    beta = BETA[loss] if beta is None else beta
    match loss:
        case "simpo":
            return beta, GAMMA if gamma is None else gamma
        case "ipo":
            return beta, per_token
    return (beta,)


def _softplus(x: Floats) -> Floats:
    """log(1 + eˣ) = −log σ(−x), without overflow."""
    return np.logaddexp(0.0, x)


def _difference(logps: PairLogps) -> Floats:
    return np.asarray(logps.policy_w, np.float64) - np.asarray(logps.policy_l, np.float64)


def _log_ratio(logps: PairLogps) -> Floats:
    """h = (log π − log π_ref)(y_w) − (log π − log π_ref)(y_l)."""
    return _difference(logps) - (
        np.asarray(logps.ref_w, np.float64) - np.asarray(logps.ref_l, np.float64)
    )


def _ipo_ratio(logps: PairLogps, per_token: bool) -> Floats:
    if not per_token:
        return _log_ratio(logps)
    ratio_w = np.asarray(logps.policy_w, np.float64) - np.asarray(logps.ref_w, np.float64)
    ratio_l = np.asarray(logps.policy_l, np.float64) - np.asarray(logps.ref_l, np.float64)
    return ratio_w / _length(logps.tokens_w) - ratio_l / _length(logps.tokens_l)


def _simpo_difference(logps: PairLogps, beta: float) -> Floats:
    mean_w = np.asarray(logps.policy_w, np.float64) / _length(logps.tokens_w)
    mean_l = np.asarray(logps.policy_l, np.float64) / _length(logps.tokens_l)
    return beta * (mean_w - mean_l)


def _length(tokens: ArrayLike) -> Floats:
    """An empty response has log-prob 0 and, as in TRL, counts as one token."""
    return np.maximum(np.asarray(tokens, np.float64), 1.0)
