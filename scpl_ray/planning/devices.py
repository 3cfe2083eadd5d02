"""Devices by name: published peaks, and what of them is assumed to be reached. Pure.

Dense peaks (without structured sparsity) as the makers publish them, in TFLOP/s and GB/s:

- NVIDIA H100 SXM5 and H200 SXM data sheets: TF32 494.7, BF16 989.4; 3350 and 4800 GB/s.
- NVIDIA A100 SXM4 80 GB data sheet: TF32 156, BF16 312; 2039 GB/s.
- NVIDIA L4 data sheet: TF32 60, BF16 121 (published with sparsity: 120, 242); 300 GB/s.
- NVIDIA V100 SXM2 data sheet: FP32 15.7, FP16 tensor cores 125 (it has no TF32 or BF16); 900 GB/s.
- NVIDIA T4 data sheet: FP32 8.1, FP16 tensor cores 65; 320 GB/s (published as "up to").
- cpu: one x86 core with AVX2 at 3 GHz: 2 FMA units x 8 lanes x 2 = 96 GFLOP/s in FP32, no faster
  in BF16; 10 GB/s of memory. A round figure, not a product.
"""

from __future__ import annotations

from dataclasses import dataclass

from scpl_ray.errors import ConfigError, unknown

# Of the peak, reached by the matrix products of a training step. Large, well-fed transformers
# report 0.3 to 0.55 (PaLM, Chowdhery et al. 2022, arXiv 2204.02311, table 3, "MFU").
UTILISATION = 0.4
# Of the memory bandwidth, reached by element-wise work and the optimizer.
BANDWIDTH_SHARE = 0.7


@dataclass(frozen=True)
class Device:
    """One device that holds one stage.

    Attributes:
        name: by which a user asks for it.
        fp32_tflops: dense peak of `train.precision: fp32` (TF32 where the device has it).
        bf16_tflops: dense peak of `train.precision: bf16` (FP16 rate where it has no BF16).
        memory_gb_s: bandwidth of its memory.
        memory_gib: its memory.
    """

    name: str
    fp32_tflops: float
    bf16_tflops: float
    memory_gb_s: float
    memory_gib: float

    def flops(self, precision: str) -> float:
        """FLOP/s that are assumed to be reached."""
        peak = self.bf16_tflops if precision == "bf16" else self.fp32_tflops
        return peak * 1e12 * UTILISATION

    @property
    def bytes_s(self) -> float:
        """Bytes a second of its memory that are assumed to be reached."""
        return self.memory_gb_s * 1e9 * BANDWIDTH_SHARE


DEVICES = {
    device.name: device
    for device in (
        Device("h100", 494.7, 989.4, 3350, 80),
        Device("h200", 494.7, 989.4, 4800, 141),
        Device("a100", 156, 312, 2039, 80),
        Device("l4", 60, 121, 300, 24),
        Device("v100", 15.7, 125, 900, 32),
        Device("t4", 8.1, 65, 320, 16),
        Device("cpu", 0.096, 0.096, 10, 4),
    )
}


def find_device(name: str) -> Device:
    """The device of a name.

    Raises:
        ConfigError: naming the allowed ones and the nearest.
    """
    if name.lower() not in DEVICES:
        raise ConfigError(f"--device: {unknown('device', name, DEVICES)}")
    return DEVICES[name.lower()]
