"""A look at the model becomes snapshots, and answers become parameters again.

Read `scene` (how the model is called and read), then `capture` (a look at some layers), `captured`, `assembly`,
`projection` and `parcel` (to the wire and back), then `trial` and `keeping` (whether the live model does what an
answer promises, and keeps what it must).
"""
