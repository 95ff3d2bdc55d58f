"""What has to be set before TensorFlow is imported."""

import gc
import os

# Here and in the processes that tests start: XLA compiles small programs a third faster
# if it does not split them, nor optimise them, nor fuse by MLIR, and for AVX2.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_max_isa=AVX2"
  " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false",
)
gc.disable()  # until all is imported: it would walk over all of TensorFlow meanwhile
