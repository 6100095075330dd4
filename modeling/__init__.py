# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The architectures. Self-contained and flat: this folder, as it is, goes to the Hub beside the weights."""
