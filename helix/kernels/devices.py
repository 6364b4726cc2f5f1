"""What an adapter asks of the machine before it is imported."""

import os

import torch


def require_cuda() -> None:
    """Refuse to be imported where there is no GPU to run on.

    Under TRITON_INTERPRET=1, Triton's own switch, our Triton kernels run on a CPU, slowly: which is
    how they are proven there.

    Raises:
        ImportError: There is no CUDA device.
    """
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise ImportError("no CUDA device")
