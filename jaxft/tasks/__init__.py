"""What is learned: how a row of data becomes an example, the loss, and the metrics. One file per task."""
