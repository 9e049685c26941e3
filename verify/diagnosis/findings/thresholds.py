"""Every number that a rule compares with, and why it is that number.

Data and activations are measured by their root mean square (rms) an entry, so that widths do not matter; what data of
unit variance give is the reference, because first weights are drawn for such data.
"""

LARGE_INPUT = 10.0  # rms an entry: self factors are a hundred times those of standardised data, as the rate's limit is
SMALL_INPUT = 1e-2  # rms an entry: a bias then moves the activation ten thousand times as far as the weights do
FEATURE_RATIO = 30.0  # rms of a feature over that of the median one; counts and lengths in one table reach ten
FEATURE_ENERGY = 0.9  # share of the squared length of a sample that such features hold
SAMPLE_RATIO = 100.0  # squared length over the median one: of n >= 2 Gaussian entries, one in 10^12 exceeds it
GRADIENT_RATIO = 1e4  # squared gradient of a sample over the median one, where it also holds most of the whole
GRADIENT_ALONE = 10.0  # that sample's own gradient: cross-entropy never gives more than 1.5, however sure and wrong
GRADIENT_SHARE = 0.9  # share of the squared gradient that one sample of at least eight holds
DUPLICATE_SHARE = 0.25  # share of samples that are one and the same
PADDING_SHARE = 0.1  # share of positions in runs of one token at the ends of sequences, with a gradient there
GROWTH = 10.0  # mean square of what the last of like layers reads over the first: every rate fits one of them
GROWTH_LAYERS = 4  # like layers from which growth is told
SCORE_DEVIATION = 2.0  # of the scores of attention: scaled products of standardised vectors have 1
SCORE_LARGEST = 0.7  # mean largest probability of attention over at least four keys
LOGIT_DEVIATION = 5.0  # of logits, where the loss is also above that of even odds
SATURATED_SHARE = 0.5  # share of entries where an activation's slope is below 8 % of its largest
DEAD_SHARE = 0.5  # share of units that no sample of at least eight activates
VANISHING = 1e-3  # gradient over weight of the first quarter of layers, relative to the last layer
VANISHING_MIDDLE = 0.1  # the same for the layer in the middle: the loss is spread over the depth, not one layer's
EXPLODING = 1e3  # the same, the other way
DOMINATING = 0.95  # share of the expected fall of the loss that one of at least three layers brings
DOMINATING_RATIO = 10.0  # its step relative to its weight over that of the median layer
GAIN_RATIO = 10.0  # gain of a layer over the median one: first weights of every common rule differ by less than three
JUMP = 100.0  # mean square that a layer reads over what the layer in front reads, where it is also that of LARGE_INPUT
RISE = 1.02  # loss after a step over the loss before
SPREAD = 1.5  # largest over smallest self factor
HEAVY = 2.0  # variation of self factors over that of Gaussian inputs with independent entries: told, not judged
CROSS = 0.9  # share of a layer's own change that other samples make
