"""The frozen base model: any Hugging Face causal LM, behind the protocols of the naive and fast evaluation.

Never remote code, never pickled weights. A working context has a jump in its position ids at every gist, and
transformers reads such a jump as the border between packed sequences when it is given no attention mask, and
silently blocks attention across it; so every call here passes an explicit mask.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AttentionInterface, PreTrainedModel

from mctrace.base_model.flop_counts import ModelSize
from mctrace.base_model.layer_tape import LayerTape, attention_as, record_pass
from mctrace.base_model.masked_pass import EntryChanges, changed_layers
from mctrace.base_model.model_source import max_positions
from mctrace.base_model.output_head import head_logits
from mctrace.base_model.shared_attention import ATTENTION_NAME, AttentionPlan, KeyValues, shared_attention

AttentionInterface.register(ATTENTION_NAME, shared_attention)

_CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 65536
"""no larger batch is faster"""
_LOGITS_PER_CHUNK = 2**24
"""logits in float32 at once (64 MiB), whatever the vocabulary"""


@dataclass(frozen=True)
class FrozenCausalLM:
    """A transformers causal LM that takes embeddings and keeps every key and value it computes."""

    network: PreTrainedModel

    @property
    def embedding_dim(self) -> int:
        return int(self.network.get_input_embeddings().weight.shape[1])

    @property
    def max_positions(self) -> int:
        return max_positions(self.network.config)

    @property
    def device(self) -> torch.device:
        """Device of the embeddings; layers may be elsewhere under a device_map."""
        return torch.device(self.network.get_input_embeddings().weight.device)

    @property
    def size(self) -> ModelSize:
        """Parameters every entry that runs is multiplied with, and those of the output head."""
        config, head = self.network.config.get_text_config(), self.network.get_output_embeddings().weight
        outside = {id(self.network.get_input_embeddings().weight), id(head)}
        in_layers = sum(p.numel() for p in self.network.parameters() if id(p) not in outside)
        # Queries, not the residual stream, are as wide as attention: some models differ.
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        attention_width = config.num_hidden_layers * config.num_attention_heads * head_dim
        return ModelSize(in_layers, head.numel(), attention_width)

    @property
    def batch_tokens(self) -> int:
        """Entries of one pass that should fit: half the free memory of the tightest GPU that holds layers, by
        a rough count of what a layer holds at once; on a CPU, what already keeps its products busy."""
        if self.device.type != "cuda":
            return _CPU_BATCH_TOKENS
        config = self.network.config.get_text_config()
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        bytes_per_token = self.network.dtype.itemsize * (4 * inner + 24 * config.hidden_size)
        devices = {parameter.device for parameter in self.network.parameters()}
        num_free = min(_free_bytes(device) for device in devices if device.type == "cuda")
        fitting: int = num_free // 2 // bytes_per_token
        return max(1024, min(GPU_BATCH_TOKENS, fitting))

    def embed(self, tokens_T: Tensor) -> Tensor:
        with torch.inference_mode():
            embeddings_Td: Tensor = self.network.get_input_embeddings()(tokens_T.to(self.device))
        return embeddings_Td

    def logits(self, embeddings_ND: Tensor, position_N: Tensor, keep_H: Tensor) -> Tensor:
        """With the attention the architecture came with: the reference for the fast evaluation."""
        mask = torch.ones(1, len(embeddings_ND), dtype=torch.long, device=embeddings_ND.device)
        output = self.network(
            inputs_embeds=embeddings_ND[None],
            position_ids=position_N[None],
            attention_mask=mask,
            use_cache=False,
            logits_to_keep=keep_H,
        )
        logits_HV: Tensor = output.logits[0]
        return logits_HV

    @torch.no_grad()
    def whole_logits(self, embeddings_BNd: Tensor) -> Tensor:
        """Logits [B, N, V] of whole contexts of equal length, each at positions 0 to N - 1."""
        num_rows, num_entries, _ = embeddings_BNd.shape
        position_N = torch.arange(num_entries, device=embeddings_BNd.device)
        output = self.network(
            inputs_embeds=embeddings_BNd,
            position_ids=position_N.expand(num_rows, -1),
            attention_mask=torch.ones(num_rows, num_entries, dtype=torch.long, device=embeddings_BNd.device),
            use_cache=False,
        )
        logits_BNV: Tensor = output.logits
        return logits_BNV

    @torch.inference_mode()
    def token_nll(
        self, embeddings_BLd: Tensor, position_BL: Tensor, targets_H: Tensor, plans: Sequence[AttentionPlan]
    ) -> Tensor:
        """NLL [B, H] in nats of `targets_H` after the last H of each row's L entries, in float32.

        `plans` give what the entries attend to besides each other, one for all rows or one per row.
        Only the last H entries go through the output head, and logits are in memory a chunk at a time.
        """
        hidden_BLd = self._hidden(embeddings_BLd, position_BL, plans)
        hidden_Md = hidden_BLd[:, -len(targets_H) :].flatten(0, 1)
        nll = [nll_c for _, nll_c in self._chunked_nll(hidden_Md, targets_H.repeat(len(embeddings_BLd)))]
        return torch.cat(nll).view(len(embeddings_BLd), -1)

    @torch.inference_mode()
    def next_logits(self, embeddings_Ld: Tensor, position_L: Tensor, plan: AttentionPlan) -> Tensor:
        """Logits [V] of the token after the last of L entries, in float32; `plan` as in `token_nll`."""
        hidden_BLd = self._hidden(embeddings_Ld[None], position_L[None], [plan])
        return head_logits(self.network, hidden_BLd[0, -1:]).float()[0]

    @torch.inference_mode()
    def key_values(
        self,
        embeddings_BLd: Tensor,
        position_BL: Tensor,
        plans: Sequence[AttentionPlan],
        changes: EntryChanges | None = None,
    ) -> KeyValues:
        """Keys and values [B, k, L, e] of every layer for the rows' entries; `plans` as in `token_nll`."""
        record = KeyValues()
        with changed_layers(self.network, changes):
            self._hidden(embeddings_BLd, position_BL, [replace(plans[0], record=record), *plans[1:]])
        return record

    def _hidden(self, embeddings_BLd: Tensor, position_BL: Tensor, plans: Sequence[AttentionPlan]) -> Tensor:
        """Last hidden states [B, L, d] of entries that attend to each other and to what the plans give."""
        # A mask in four dimensions is handed on as it is: the attention function knows what is visible.
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=embeddings_BLd.device)
        with attention_as(self.network, ATTENTION_NAME):
            output = self.network.base_model(
                inputs_embeds=embeddings_BLd,
                position_ids=position_BL,
                attention_mask=mask,
                use_cache=False,
                plans=plans,
            )
        hidden_BLd: Tensor = output.last_hidden_state
        return hidden_BLd

    def taped_pass(self, embeddings_Nd: Tensor, position_N: Tensor, targets_H: Tensor) -> LayerTape:
        """A recorded pass of a context that reads `targets_H` after its last H entries (`layer_tape.py`)."""

        def losses(hidden_Hd: Tensor) -> tuple[Tensor, Tensor]:
            leaf_Hd = hidden_Hd.detach().requires_grad_()
            nll: list[Tensor] = []
            gradients: list[Tensor] = []
            for hidden_cd, nll_c in self._chunked_nll(leaf_Hd, targets_H):
                gradients += torch.autograd.grad(nll_c.sum(), hidden_cd)
                nll.append(nll_c.detach())
            return torch.cat(nll), torch.cat(gradients)

        return record_pass(self.network, embeddings_Nd, position_N, len(targets_H), losses)

    def _chunked_nll(self, hidden_Md: Tensor, targets_M: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Hidden states [c, d] and their losses [c] in float32, a chunk of logits at a time."""
        head_weight = self.network.get_output_embeddings().weight
        targets_M = targets_M.to(head_weight.device, non_blocking=True)
        per_chunk = max(1, _LOGITS_PER_CHUNK // len(head_weight))
        for hidden_cd, targets_c in zip(
            torch.split(hidden_Md, per_chunk), torch.split(targets_M, per_chunk), strict=True
        ):
            yield (
                hidden_cd,
                cross_entropy(head_logits(self.network, hidden_cd).float(), targets_c, reduction="none"),
            )


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU; what the allocator keeps for the next tensor is as good as free."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept
