"""What all formats share: codes learned by distillation, types for a budget, column importance."""
