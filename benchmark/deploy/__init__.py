"""What leaves a finished run: predictions on new images, adapters, folded weights."""
