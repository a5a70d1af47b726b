"""FLOP counts: size of a base model and of the work it is given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Work of the base model: entries through its layers, through its head, and attended pairs."""

    num_recomputed: int = 0
    num_read: int = 0
    num_pairs: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.num_recomputed + other.num_recomputed,
            self.num_read + other.num_read,
            self.num_pairs + other.num_pairs,
        )


@dataclass(frozen=True)
class ModelSize:
    """Model size: parameters per entry in the layers and the head, layers times width."""

    num_layer_parameters: int
    num_head_parameters: int
    attention_width: int

    def flops(self, work: Work) -> float:
        """Multiply-adds counted as two: 2 P per entry, 4 * layers * width per attended pair."""
        return (
            2.0 * self.num_layer_parameters * work.num_recomputed
            + 2.0 * self.num_head_parameters * work.num_read
            + 4.0 * self.attention_width * work.num_pairs
        )
