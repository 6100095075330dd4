# Copyright 2026 The fqgan-hf authors. Licensed under the Apache License, Version 2.0.
"""The Accelerate scripts: tokenizer, code extraction and generator training, with their losses and data."""
