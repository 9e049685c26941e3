"""How far the layers of any torch model are from ideal steps: self factors, shares of a step, drift, one exact check.

    model -> layers     which layers can be judged, and why the others cannot
    -> capture          one forward pass: what each layer read, and where the loss's gradient meets its output
    -> step             the derived kernel's prediction of one step against the step itself
    -> measure          all of it over a few virtual steps; ``watch`` the self factors alone while a model trains
    -> advice, show     the map that would correct a layer; a table, JSON, a page, TensorBoard

A model is never changed: steps are taken on copies of its parameters.
"""
