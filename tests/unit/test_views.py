"""Views follow NumPy: an index array taken through the view equals NumPy on the array itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.compiler.lowering.kernels._access import Access, dense
from edgec.compiler.lowering.views import View, inverse
from tests.pairs import Array

BASE = np.arange(24)


def seen(view: View) -> Array:
    """Return which elements of the buffer the view shows."""
    return BASE[view.access.positions(view.shape)]


STEPS: dict[str, tuple[Callable[[View], View | None], Callable[[Array], Array]]] = {
    "transpose": (lambda v: v.transpose((2, 0, 1)), lambda a: a.transpose(2, 0, 1)),
    "slice": (lambda v: v.slice((slice(0, 1), slice(None, None, -1))), lambda a: a[:1, ::-1]),
    "backwards": (lambda v: v.slice((..., slice(3, 0, -2))), lambda a: a[..., 3:0:-2]),
    "pick": (lambda v: v.slice((1, slice(None), -1)), lambda a: a[1, :, -1]),
    "new_axis": (lambda v: v.slice((slice(None), None)), lambda a: a[:, None]),
    "broadcast": (
        lambda v: v.slice((slice(None), slice(0, 1))).broadcast((5, 2, 3, 4)),
        lambda a: np.broadcast_to(a[:, :1], (5, 2, 3, 4)),
    ),
    "reshape": (lambda v: v.reshape((4, 6)), lambda a: a.reshape(4, 6)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_view_shows_what_numpy_shows(name: str) -> None:
    on_view, on_array = STEPS[name]
    view = on_view(View.whole("b", (2, 3, 4)))
    assert view is not None
    np.testing.assert_array_equal(seen(view), on_array(BASE.reshape(2, 3, 4)))
    assert view.buffer == "b"


def test_reshape_that_would_move_elements_gives_none() -> None:
    turned = View.whole("b", (4, 6)).transpose((1, 0))
    assert turned.reshape((24,)) is None
    assert turned.reshape((2, 3, 4)) is not None


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3, 1, 2), (24,)])
def test_whole_is_whole(shape: tuple[int, ...]) -> None:
    assert View.whole("b", shape).is_whole


def test_what_is_not_whole() -> None:
    view = View.whole("b", (4, 6))
    assert not view.transpose((1, 0)).is_whole
    assert not view.slice((slice(0, 3),)).is_whole
    assert not view.slice((slice(None, None, -1),)).is_whole
    assert view.slice((slice(None),)).is_whole
    assert view.transpose((1, 0)).transpose((1, 0)).is_whole
    assert View.whole("b", (1, 6)).transpose((1, 0)).is_whole


def test_unit_axes_have_stride_zero_whatever_numpy_says() -> None:
    access = View.whole("b", (2, 3, 4)).slice((slice(1, 2), slice(0, 1))).access
    assert access == Access(24, (0, 0, 1), 12)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
def test_storage_order_makes_a_transposed_view_dense_again(order: tuple[int, ...]) -> None:
    view = View.whole("b", (2, 3, 4)).transpose(order)
    stored = view.transpose(view.storage_order())
    assert stored.is_whole
    assert inverse(order) == tuple(np.argsort(order))


def test_storage_order_leaves_broadcast_axes_in_place() -> None:
    view = View.whole("b", (3, 1, 4)).transpose((2, 1, 0)).broadcast((4, 5, 3))
    assert view.storage_order() == (2, 1, 0)


def test_dense_is_row_major() -> None:
    assert dense((2, 3, 4)) == Access(24, (12, 4, 1))
    assert dense(()) == Access(1, ())


def test_index_leaves_out_axes_that_do_not_move() -> None:
    variables: list[Any] = [5, 7, 0]
    assert Access(100, (10, 0, 3), 2).index(variables) == 2 + 50
