"""Base models, the adapters that train on them, and the policy: model + adapter + head + tokenizer."""
