"""Every threshold of a rule, and the reason for its value.

Data and activations are measured by the root mean square (rms) of their entries, which does not depend on the width.
The reference is data of unit variance, because initial weights are chosen for such data.
"""

LARGE_INPUT = 10.0  # rms: self factors are 100 times those of standardised data, and the largest stable rate is 1/100
SMALL_INPUT = 1e-2  # rms: the bias then moves the activation ten thousand times as far as one weight
FEATURE_RATIO = 30.0  # rms of a feature over that of the median one; counts and lengths in one table reach ten
FEATURE_ENERGY = 0.9  # share of a sample's squared length in such features
SAMPLE_RATIO = 100.0  # squared length over the median one: of n >= 2 Gaussian entries, one in 10^12 exceeds it
GRADIENT_RATIO = 1e4  # squared gradient of a sample over the median one; it must also hold most of the total
GRADIENT_ALONE = 10.0  # that sample's own gradient; cross-entropy gives at most 1.5, even if confident and wrong
GRADIENT_SHARE = 0.9  # share of the squared gradient held by one sample of at least eight
DUPLICATE_SHARE = 0.25  # share of identical samples
PADDING_SHARE = 0.1  # share of positions in runs of one token at the ends of sequences, with a gradient there
GROWTH = 10.0  # mean square of the last like layer's input over the first's: no rate fits both
GROWTH_LAYERS = 4  # least number of like layers for a finding on growth
SCORE_DEVIATION = 2.0  # standard deviation of attention scores; scaled products of standardised vectors have 1
SCORE_LARGEST = 0.7  # mean largest probability of attention over at least four keys
LOGIT_DEVIATION = 5.0  # standard deviation of logits; the loss must also be above that of even odds
SATURATED_SHARE = 0.5  # share of entries where an activation's slope is below 8 % of its largest
DEAD_SHARE = 0.5  # share of units that no sample of at least eight activates
VANISHING = 1e-3  # gradient over weight of the first quarter of layers, relative to the last layer
VANISHING_MIDDLE = 0.1  # the same for the middle layer: the decay must extend over the depth, not happen in one layer
EXPLODING = 1e3  # the same ratio, for growth
DOMINATING = 0.95  # share of the expected decrease of the loss from one of at least three layers
DOMINATING_RATIO = 10.0  # its step relative to its weights, over that of the median layer
GAIN_RATIO = 10.0  # gain of a layer over the median; under all common initialisations gains differ by less than 3
JUMP = 100.0  # mean square of a layer's input over the previous layer's; the rms must also exceed LARGE_INPUT
RISE = 1.02  # loss after a step over the loss before
SPREAD = 1.5  # largest over smallest self factor
HEAVY = 2.0  # variation of self factors over that of independent Gaussian inputs: reported, not judged
CROSS = 0.9  # share of a layer's own change that comes from other samples
