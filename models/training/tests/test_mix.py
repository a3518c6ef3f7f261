import pytest
import torch

from vovcam_train.mix import mix


def test_a_mix_lies_between_start_and_end():
    start, end = {"a": torch.zeros(2).half()}, {"a": torch.ones(2), "n.num_batches_tracked": torch.tensor(3)}
    out = mix(start, end, 0.25)
    assert out["a"].tolist() == [0.25, 0.25] and out["a"].dtype == torch.float32
    assert out["n.num_batches_tracked"] == 3
    with pytest.raises(ValueError, match="no tensor 'b'"):
        mix(start, {"b": torch.ones(1)}, 0.5)
