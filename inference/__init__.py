import os

# onnxruntime's official Linux wheels report to their maker, keep a database of that under the user's home and start a thread
# for it, unless they are told not to before they are loaded (microsoft/onnxruntime#27379; the name that 1.31.1 reads).
# Here, because every part of this project that loads it lies in this package.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
