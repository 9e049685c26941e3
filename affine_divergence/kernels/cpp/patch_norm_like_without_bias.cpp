// norm-like (normalising) convolution without a bias.
//
//     z[s,g,o,ph,pw] = f[s,g,ph,pw]*sum[c,kh,kw](W[g,o,c,kh,kw]*x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw +
//     stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw - paddingw,
//     Lw))
//     f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw])
//     E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
//     paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw))
//
// The functions of an entry and of a position; the headers have the sums around them, the order of calls, and the
// types.
//
// Derivation (SHA-256 of the map): a2894f2ce09d052dca6ef7da9da6f35081a79c7edf04b3e61e7db3c8a38db464

#include "runtime/python.h"
#include "runtime/patches.h"
#include "runtime/patch_layout.h"
#include "runtime/patch_sums.h"
#include "runtime/patch_forward.h"
#include "runtime/patch_backward.h"

namespace kernels {

struct Map {
    static constexpr bool centred = false, transposed = false;
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
        const Wide f = sqrt(kappa) / sqrt(E_or_inf);  // grouped-convolution-without-bias/norm-like/define-f
        return f;
    }

    Element output(Element f, Element h, Element, Element, Element) const {
        typedef Element Wide;
        const Wide z = f * h;  // grouped-convolution-without-bias/norm-like/forward
        return z;
    }

    Element incoming(Element f, Element g) const {
        typedef Element Wide;
        const Wide dh = f * g;
        return dh;
    }

    Element bias(Element, Element) const {
        return 0;
    }

    Element beside(Element, Element) const {
        return 0;
    }

    Wide through(Wide f, Wide dh_h) const {
        const Wide dE = -dh_h * (f * f) / (2 * kappa);
        return dE;
    }

    Wide input(Wide x, Wide dh_W, Wide dxx, Wide) const {
        const Wide dx = 2 * dxx * x + dh_W;  // grouped-convolution-without-bias/norm-like/backward-dx
        return dx;
    }
};

KERNEL patch_norm_like_without_bias_forward(
    Given* given, const Element* x, const Element* W, const Element* b, Element* z, Element* f, Element* room,
    const double kappa, const double floor, const int threads) {
    const Map map = {kappa, floor, entries_of(*given)};
    given->room = Forward<Map>(map, *given, W, b, room)(x, z, f, threads);
}

KERNEL patch_norm_like_without_bias_backward(
    Given* given, const Element* g, const Element* x, const Element* W, const Element* b, const Element* f, Element* dx,
    Element* dW, Element* db, Element* room, const double kappa, const double floor, const int threads) {
    const Map map = {kappa, floor, entries_of(*given)};
    given->room = Backward<Map>(map, *given, W, b, room)(g, x, f, dx, dW, db, threads);
}

}  // namespace kernels

FUNCTIONS(FUNCTION(patch_norm_like_without_bias_forward), FUNCTION(patch_norm_like_without_bias_backward))
