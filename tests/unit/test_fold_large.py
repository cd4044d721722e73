"""A model whose weights are a file folds as it lies there, with no node added by what is folded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgec.compiler.core.passbase import Context
from edgec.passes.online_hadamard import OnlineHadamard
from edgec.passes.quarot import Quarot
from tools.fold_large import answer, write_model


def test_weights_in_a_file_are_folded(tmp_path: Path) -> None:
    path, folded = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    write_model(path, layers=2, width=512, hidden=172, words=50)
    model = ir.load(path)
    table = model.graph.initializers["table"].const_value
    assert isinstance(table, ir.ExternalTensor)
    count = len(model.graph)
    outcome = Quarot().apply(model, Context())
    kinds = [note.where.split(" ")[0] for note in outcome.changed]
    assert kinds == ["residual", "values", "values", "graph"]
    assert len(model.graph) == count
    OnlineHadamard().apply(model, Context())
    assert len(model.graph) == count + 4
    ir.save(model, folded, external_data="folded.bin")
    before, after = answer(path, 50), answer(folded, 50)
    assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()
