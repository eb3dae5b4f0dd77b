"""What Ritter et al. (2018) claim, trained and measured on each task: ``eplstm reproduce TASK``."""
