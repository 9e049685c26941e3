// norm-like (normalising) transposed convolution.
//
//     z[s,g,o,qh,qw] = f[s,g,qh,qw]*sum[j,k,l](W[g,j,o,k,l]*x[s,g,j,qh/strideh + paddingh/strideh -
//     dilationh*k/strideh,qw/stridew + paddingw/stridew - dilationw*l/stridew]*divides(strideh, qh + paddingh -
//     dilationh*k)*divides(stridew, qw + paddingw - dilationw*l)*within(qh/strideh + paddingh/strideh -
//     dilationh*k/strideh, Lh)*within(qw/stridew + paddingw/stridew - dilationw*l/stridew, Lw)) + b[g,o]
//     f[s,g,qh,qw] = sqrt(kappa - 1)/sqrt(E[s,g,qh,qw])
//     E[s,g,qh,qw] = sum[j,k,l](x[s,g,j,qh/strideh + paddingh/strideh - dilationh*k/strideh,qw/stridew + paddingw/stridew -
//     dilationw*l/stridew]**2*divides(strideh, qh + paddingh - dilationh*k)*divides(stridew, qw + paddingw -
//     dilationw*l)*within(qh/strideh + paddingh/strideh - dilationh*k/strideh, Lh)*within(qw/stridew + paddingw/stridew -
//     dilationw*l/stridew, Lw))
//
// The functions of an entry and of a position; the headers have the sums around them, the order of calls, and the
// types.
//
// Derivation (SHA-256 of the map): 0262b6ed526c5e20da7eb57bf27b82d2481701feaedc48ebfe5c46182e00e89b

#include "runtime/python.h"
#include "runtime/patches.h"
#include "runtime/patch_layout.h"
#include "runtime/patch_sums.h"
#include "runtime/patch_forward.h"
#include "runtime/patch_backward.h"

namespace kernels {

struct Map {
    static constexpr bool centred = false, transposed = true;
    const Wide kappa, floor, patch_entries;

    Wide add(Wide xx_total, Wide x) const {
        xx_total += x * x;
        return xx_total;
    }

    Wide total(Wide xx_total) const {
        const Wide xx = floor > xx_total ? 0 : xx_total;
        return xx;
    }

    Wide scale(Wide E, Wide) const {
        const Wide E_or_inf = E == 0 ? infinity() : E;
        const Wide f = sqrt(kappa - 1) / sqrt(E_or_inf);  // grouped-transposed-convolution/norm-like/define-f
        return f;
    }

    Element output(Element f, Element h, Element b, Element, Element) const {
        typedef Element Wide;
        const Wide z = b + f * h;  // grouped-transposed-convolution/norm-like/forward
        return z;
    }

    Element incoming(Element f, Element g) const {
        typedef Element Wide;
        const Wide dh = f * g;
        return dh;
    }

    Element bias(Element, Element g) const {
        return g;
    }

    Element beside(Element, Element) const {
        return 0;
    }

    Wide through(Wide f, Wide dh_h) const {
        const Wide dE = -dh_h * (f * f) / (2 * (kappa - 1));
        return dE;
    }

    Wide input(Wide x, Wide dh_W, Wide dxx, Wide) const {
        const Wide dx = 2 * dxx * x + dh_W;  // grouped-transposed-convolution/norm-like/backward-dx
        return dx;
    }
};

KERNEL patch_norm_like_transposed_forward(
    Given* given, const Element* x, const Element* W, const Element* b, Element* z, Element* f, Element* room,
    const double kappa, const double floor, const int threads) {
    const Map map = {kappa, floor, entries_of(*given)};
    given->room = Forward<Map>(map, *given, W, b, room)(x, z, f, threads);
}

KERNEL patch_norm_like_transposed_backward(
    Given* given, const Element* g, const Element* x, const Element* W, const Element* b, const Element* f, Element* dx,
    Element* dW, Element* db, Element* room, const double kappa, const double floor, const int threads) {
    const Map map = {kappa, floor, entries_of(*given)};
    given->room = Backward<Map>(map, *given, W, b, room)(g, x, f, dx, dW, db, threads);
}

}  // namespace kernels

FUNCTIONS(FUNCTION(patch_norm_like_transposed_forward), FUNCTION(patch_norm_like_transposed_backward))
