"""Photos and masks: files -> pairs -> train and val -> tensors."""
