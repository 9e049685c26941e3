"""Hold the generated layers against their derivation: identities, gradients, training runs and the report on them."""
