"""What is known of the user's live model: which layers may move, and what follows them.

Read `eligibility` (what may move at all) and `whole_network`, then `live` and `watch` (how the model is run and
listened to), then `chain` (what may follow a layer, from `blocks`, `joins`, `recognise` and `folding`) and `verify`
(whether it does); what was verified is remembered in `memory`.
"""
