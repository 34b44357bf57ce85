"""Model and samples to the wire, and answers back to parameters.

Read `reservoir` (what is kept of the loop's batches), then `capture` (a look at the live model), which builds on
`scene` and `watch` (how the model is called and read), `chain` and `verify` (what follows a layer), `captured` and
`parcel` (to the wire and back), and `trial` (whether the live model does what an answer promises).
"""
