"""What a loop's batches are, and which of their samples are kept and sent.

Read `batches` (what a batch is to the model and the loss), then `reservoir` (what is kept of those that a loop draws,
in `rows`), `heads` and `positions` (which rows of an output have a target), and `choice` (which samples are sent).
`forms` and `columns` take apart what else a batch holds; `sources` says where batches come from.
"""
