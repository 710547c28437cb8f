"""Networks: train real ones and check the predictions of theory on them."""
