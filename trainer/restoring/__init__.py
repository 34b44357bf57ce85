"""What a look at the model or a validation may change of the user's run, and putting it back, bit by bit.

Read `undisturbed` (modes, gradients, random states), then `registered` and `held` (what modules register), then
`attributes` (what they and the user's code note down elsewhere), with `tensors` and `undoing` below it. `draws` is
for generators that are not global, `behind` walks from loaders to what they draw from; `named`, `calls`, `reach` and
`own_code` say what a function's code can get at. `beside` and `paths` tell what other threads may have written in the
meantime, and `postponed` has signals' handlers and listeners wait until all is put back.
"""
