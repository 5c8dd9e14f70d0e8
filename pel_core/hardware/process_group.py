"""The processes that train one run together. One by default; data-parallel training puts its own in this one's place."""

from collections.abc import Iterable

from torch import Tensor, nn


class ProcessGroup:
    """One process: nothing to add up, nobody to agree with.

    ``rank`` counts from 0; rank 0 writes files and reports. All ranks hold equal parameters, optimiser states and sums, so
    that what rank 0 saves is what each would.
    """

    rank = 0
    size = 1

    def part(self, images: int, rank: int | None = None) -> slice:
        """This rank's part, or another's, of a batch of so many images; it may be empty."""
        return slice(0, images)

    def same_start(self, parameters: Iterable[nn.Parameter], done: int) -> None:
        """Make sure that all ranks start from the same parameters, with ``done`` steps behind them."""

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up every parameter's gradient over ranks, in place, once a step: after the micro-batches, before the update."""

    def sum(self, value: Tensor) -> Tensor:
        """A tensor added up over ranks."""
        return value

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers: a signal that reached one stops all of them at the same step."""
        return number
