# SPDX-License-Identifier: Apache-2.0
"""Counting the operations of MLIR files, on lines as the vendor's compiler writes them."""

from common.cs.lowering import count_operations, keep_files, shortened

CIRH = """#loc0 = loc(unknown)
module  {
  func @graph(%arg0: tensor<2x3xf32> {tf.resource_name = "state.model"} loc(unknown)) {
    %cst = cirh.Const dense<0xFF800000> : tensor<f32> loc(#loc1)
    %0 = cirh.MatMul(%arg0, %arg0) {transpose_b = true} : (tensor<2x3xf32>) loc(#loc2)
    %1 = cirh.MatMul(%0, %0) : tensor<2x2xf32> loc(#loc3)
    %2 = "cirh.LayerNorm"(%1) : (tensor<2x2xf32>) -> tensor<2x2xf32> loc(#loc4)
#loc4 = loc("cirh.Softmax")
"""
TORCH = """    %int0 = torch.constant.int 0 loc(#loc1)
    %0 = torch.aten.addmm %arg0, %arg1, %arg2, %int0, %int0 : !torch.vtensor loc(#loc1)
    %1 = torch.aten.mul.Tensor %0, %0 : !torch.vtensor loc(#loc1)
"""


def test_operations_are_counted_without_constants(tmp_path):
    (tmp_path / "cirh.mlir").write_text(CIRH)
    (tmp_path / "torch.mlir").write_text(TORCH)
    assert count_operations(tmp_path / "cirh.mlir") == {"MatMul": 2, "LayerNorm": 1}
    assert count_operations(tmp_path / "torch.mlir") == {"addmm": 1, "mul.Tensor": 1}


def test_the_latest_programs_files_are_kept(tmp_path):
    for number, text in (("000001", "old"), ("000002", "new")):
        folder = tmp_path / "artifacts" / "executors" / number
        folder.mkdir(parents=True)
        (folder / "cirh.mlir").write_text(text)
    kept = keep_files(tmp_path / "artifacts", tmp_path)
    assert list(kept) == ["cirh.mlir"]
    assert (tmp_path / "cirh.mlir").read_text() == "new"


def test_a_count_is_shown_with_its_largest_first(tmp_path):
    (tmp_path / "cirh.mlir").write_text(CIRH)
    counts = count_operations(tmp_path / "cirh.mlir")
    assert shortened(counts) == "MatMul 2, LayerNorm 1"
    assert shortened(counts, most=1) == "MatMul 2, ... (2 kinds)"
