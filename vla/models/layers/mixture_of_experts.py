"""Mixture of experts in place of a block's feed-forward layer: each token goes through few of many.

Shazeer et al. 2017 (arXiv:1701.06538): a linear router gives each token a distribution over the
experts, the k most likely ones compute it, and their outputs are summed with the renormalised
probabilities (as in Mixtral, arXiv:2401.04088). Song et al. 2024, "GeRM" (arXiv:2403.13358), put
2 of 8 experts into RT-1 with the Q-Transformer's objective for a quadruped.

N tokens, D width, E experts, k experts of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from pydantic import Field, model_validator
from torch import Tensor, nn

from vla.config import Config
from vla.models.layers.feed_forward import FeedForward, FeedForwardKind
from vla.types.tensors import is_exporting


class ExpertsConfig(Config):
    """Experts of each layer; the names are those of Mixtral in transformers."""

    num_local_experts: int = Field(default=8, ge=2, le=1024)
    """Experts of a layer, each a whole feed-forward layer. GeRM has 8."""
    num_experts_per_tok: int = Field(default=2, ge=1, le=1024)
    """Experts that compute a token. GeRM has 2."""
    router_aux_loss_coef: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    """Weight of the loss that spreads the tokens over the experts, mean over the layers (Switch
    Transformer, arXiv:2101.03961, equation 4: 0.01). Without it, few experts take all tokens."""

    @model_validator(mode="after")
    def _has_so_many(self) -> ExpertsConfig:
        if self.num_experts_per_tok > self.num_local_experts:
            raise ValueError(
                f"num_experts_per_tok: {self.num_experts_per_tok} of {self.num_local_experts} "
                "experts; set it to num_local_experts or less"
            )
        return self

    def build(self, width: int, kind: FeedForwardKind, dropout: float) -> MixtureOfExperts:
        """The layer, with experts of this kind."""
        return MixtureOfExperts(self, width, kind, dropout)


@dataclass(frozen=True)
class Routing:
    """What a router has decided for the tokens of a batch.

    Attributes:
        probabilities: (..., E), float32, with gradient.
        chosen: (..., k), the experts of each token.
    """

    probabilities: Float[Tensor, "... E"]
    chosen: Int64[Tensor, "... k"]

    def balance_loss(self, counted: Bool[Tensor, "*batch"] | None = None) -> Tensor:
        """E times the sum over experts of (share of the choices) x (mean probability): 1 if all
        experts are used alike, E if one takes all (Switch Transformer, equation 4; of several
        choices per token each counts 1 / k, as in ST-MoE, arXiv:2202.08906).

        counted: False at tokens of padding, which teach nothing; None counts all.
        """
        experts = self.probabilities.shape[-1]
        probabilities_NE = self.probabilities.flatten(0, -2)
        chosen_Nk = self.chosen.flatten(0, -2)
        weights_N1 = probabilities_NE.new_ones(len(probabilities_NE), 1)
        if counted is not None:
            weights_N1 = counted.reshape(-1, 1).to(weights_N1.dtype)
        tokens = weights_N1.sum().clamp(min=1)
        # counts have no gradient: it comes through the probabilities alone
        share_NE = F.one_hot(chosen_Nk, experts).to(weights_N1.dtype).mean(1)
        share_E = (weights_N1 * share_NE).sum(0) / tokens
        mean_E = (weights_N1 * probabilities_NE).sum(0) / tokens
        return experts * (share_E * mean_E).sum()


class MixtureOfExperts(nn.Module):
    """See the module's docstring."""

    def __init__(
        self, config: ExpertsConfig, width: int, kind: FeedForwardKind, dropout: float
    ) -> None:
        super().__init__()
        self.per_token = config.num_experts_per_tok
        # no bias: it would prefer experts whatever the token
        self.router = nn.Linear(width, config.num_local_experts, bias=False)
        self.experts = nn.ModuleList(
            FeedForward(width, kind, dropout) for _ in range(config.num_local_experts)
        )

    def forward(
        self, x: Float[Tensor, "... D"], routing: list[Routing] | None = None
    ) -> Float[Tensor, "... D"]:
        """The tokens through their experts.

        routing: to which the router's decisions are appended, for the loss that balances them.
        """
        x_ND = x.reshape(-1, x.shape[-1])
        weights_Nk, decided = self._route(x_ND)
        if routing is not None:
            lead = x.shape[:-1]
            probabilities = decided.probabilities.reshape(*lead, -1)
            routing.append(Routing(probabilities, decided.chosen.reshape(*lead, -1)))
        # a graph that is exported has one path for all inputs
        compute = self._dense if is_exporting() else self._sparse
        return compute(x_ND, weights_Nk, decided.chosen).reshape(x.shape)

    def _route(self, x_ND: Tensor) -> tuple[Float[Tensor, "N k"], Routing]:
        # In float32 also under autocast (Switch Transformer, section 2.4): in bfloat16 experts that
        # are nearly as likely would be chosen by rounding.
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = F.linear(x_ND.float(), self.router.weight.float())
            probabilities_NE = logits_NE.softmax(-1)
        greatest_Nk, chosen_Nk = probabilities_NE.topk(self.per_token, dim=-1)
        weights_Nk = greatest_Nk / greatest_Nk.sum(-1, keepdim=True)
        return weights_Nk, Routing(probabilities_NE, chosen_Nk)

    def _sparse(self, x_ND: Tensor, weights_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
        """Each expert computes its own tokens alone: k / E of the work of all experts."""
        total_ND = torch.zeros_like(x_ND)
        for number, expert in enumerate(self.experts):
            rows_M, place_M = (chosen_Nk == number).nonzero(as_tuple=True)
            # Also without any token: an expert whose parameters have no gradient at all would stop
            # training on several processes.
            computed_MD = expert(x_ND[rows_M])
            weighted_MD = weights_Nk[rows_M, place_M, None].to(computed_MD.dtype) * computed_MD
            total_ND = total_ND.to(computed_MD.dtype).index_add(0, rows_M, weighted_MD)
        return total_ND

    def _dense(self, x_ND: Tensor, weights_Nk: Tensor, chosen_Nk: Tensor) -> Tensor:
        """The same sum with all experts computing all tokens."""
        all_NE = weights_Nk.new_zeros(x_ND.shape[0], len(self.experts))
        weights_NE = all_NE.scatter(1, chosen_Nk, weights_Nk)
        computed_NED = torch.stack([expert(x_ND) for expert in self.experts], 1)
        return (weights_NE[..., None].to(computed_NED.dtype) * computed_NED).sum(1)


def router_loss(
    config: ExpertsConfig | None, of_layers: Sequence[Tensor], mask: Bool[Tensor, "B T"]
) -> dict[str, Float[Tensor, "B T"]]:
    """What a policy adds to its loss (`PolicyOutput.losses`): the mean over the layers, weighted,
    the same at every step, since it is of the batch as a whole; nothing without experts."""
    if config is None or not of_layers:
        return {}
    mean = torch.stack(list(of_layers)).mean()
    return {"router_loss": (config.router_aux_loss_coef * mean).expand(mask.shape)}


__all__ = ["ExpertsConfig", "MixtureOfExperts", "Routing", "router_loss"]
