"""What an objective of a plug-in cannot need: together, or under its name."""

from __future__ import annotations

from fungistore.errors import UsageError
from fungistore.objectives.objective import Needs
from fungistore.store.feature import OF_PATCHES


def refuse_odd_needs(name: str, needs: Needs) -> None:
    """Refuse needs that nothing would serve.

    Args:
        name: of the objective; it says where the feature is stored.
        needs: of the objective.

    Raises:
        UsageError: the name is not that of such a feature, or it has views beside random numbers
            or gradients of tokens, which are those of the embeddings' view.
    """
    if name.startswith(OF_PATCHES) != needs.per_token:
        called = f"a name that begins with {OF_PATCHES}"
        raise UsageError(
            "the objective has a name of another kind of feature",
            where=f"objective {name}",
            expected=called if needs.per_token else f"per_token=True, or not {called}",
            found=f"per_token={needs.per_token}",
        )
    odd = [field for field in ("per_token", "token_draws", "neighbors") if getattr(needs, field)]
    if odd and needs.views is not None:
        raise UsageError(
            f"the objective has views of its own beside {odd[0]}",
            where=f"objective {name}",
            expected="views=None: what is of tokens is of the view that embeddings have",
            found=needs.views,
        )
    if needs.neighbors is not None and (needs.bank is None or not needs.tokens):
        raise UsageError(
            "the objective asks for neighbours of tokens in a bank that it has not",
            where=f"objective {name}",
            expected="tokens=True and bank=BankSpec(...) beside neighbors",
        )
