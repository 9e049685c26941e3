// affine-like (non-normalising) convolution of centred patches.
//
//     z[s,g,o,ph,pw] = f[s,g,ph,pw]*(sum[c,kh,kw](W[g,o,c,kh,kw]*(x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw
//     + stridew*pw - paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw -
//     paddingw, Lw) - m[s,g,ph,pw])) + b[g,o])
//     f[s,g,ph,pw] = sqrt(kappa)/sqrt(E[s,g,ph,pw] + 1)
//     E[s,g,ph,pw] = sum[j,k,l](x[s,g,j,dilationh*k + strideh*ph - paddingh,dilationw*l + stridew*pw -
//     paddingw]**2*within(dilationh*k + strideh*ph - paddingh, Lh)*within(dilationw*l + stridew*pw - paddingw, Lw)) -
//     C*Kh*Kw*m[s,g,ph,pw]**2
//     m[s,g,ph,pw] = sum[c,kh,kw](x[s,g,c,dilationh*kh + strideh*ph - paddingh,dilationw*kw + stridew*pw -
//     paddingw]*within(dilationh*kh + strideh*ph - paddingh, Lh)*within(dilationw*kw + stridew*pw - paddingw,
//     Lw))/(C*Kh*Kw)
//
// The functions of an entry and of a position; the headers have the sums around them, the order of calls, and the
// types.
//
// Derivation (SHA-256 of the map): acad8fe80d7ffe3c16c2ec92de50b8b626fab9731057ce457e450ea1b339bc9c

#include "runtime/python.h"
#include "runtime/patches.h"
#include "runtime/patch_layout.h"
#include "runtime/patch_sums.h"
#include "runtime/patch_forward.h"
#include "runtime/patch_backward.h"

namespace kernels {

struct Map {
    static constexpr bool centred = true, transposed = false;
    const Wide kappa, floor, patch_entries;

    Wide add(Wide xx_total, Wide x) const {
        xx_total += x * x;
        return xx_total;
    }

    Wide total(Wide xx_total) const {
        const Wide xx = floor > xx_total ? 0 : xx_total;
        return xx;
    }

    Wide add_entry(Wide x_sum, Wide x) const {
        x_sum += x;
        return x_sum;
    }

    Wide mean(Wide x_sum_sum) const {
        const Wide m = x_sum_sum / patch_entries;  // centred-convolution/affine-like/define-m
        return m;
    }

    Wide scale(Wide xx_sum, Wide m) const {
        const Wide E_total = xx_sum;
        const Wide E_rest = E_total - patch_entries * (m * m);
        const Wide E = E_rest <= LEFTOVER * E_total ? 0 : E_rest;  // centred-convolution/affine-like/define-E
        const Wide f = sqrt(kappa) / sqrt(1 + E);  // centred-convolution/affine-like/define-f
        return f;
    }

    Element output(Element f, Element xW, Element b, Element W_sum, Element m) const {
        typedef Element Wide;
        const Wide h = b + xW - m * W_sum;
        const Wide z = f * h;  // centred-convolution/affine-like/forward
        return z;
    }

    Element incoming(Element f, Element g) const {
        typedef Element Wide;
        const Wide dh = f * g;
        return dh;
    }

    Element bias(Element dh, Element) const {
        return dh;
    }

    Element beside(Element dh, Element b) const {
        return b * dh;
    }

    Wide through(Wide f, Wide dh_h) const {
        const Wide dE = -dh_h * (f * f) / (2 * kappa);
        return dE;
    }

    Element to_mean(Element dh, Element W_sum) const {
        return W_sum * dh;
    }

    Element to_filters(Element dh, Element m) const {
        return m * dh;
    }

    Wide through_mean(Wide dE, Wide m, Wide dh_W_sum) const {
        const Wide dm = -2 * patch_entries * dE * m - dh_W_sum;
        const Wide dx_sum_sum = dm / patch_entries;
        return dx_sum_sum;
    }

    Element weight(Element dh_x, Element dh_m) const {
        typedef Element Wide;
        const Wide dW_sum = -dh_m;
        const Wide dW = dW_sum + dh_x;  // centred-convolution/affine-like/backward-dW
        return dW;
    }

    Wide input(Wide x, Wide dh_W, Wide dxx, Wide dx_sum) const {
        const Wide dx = dx_sum + 2 * dxx * x + dh_W;  // centred-convolution/affine-like/backward-dx
        return dx;
    }
};

KERNEL patch_affine_like_centred_forward(
    Given* given, const Element* x, const Element* W, const Element* b, Element* z, Element* f, Element* room,
    const double kappa, const double floor, const int threads) {
    const Map map = {kappa, floor, entries_of(*given)};
    given->room = Forward<Map>(map, *given, W, b, room)(x, z, f, threads);
}

KERNEL patch_affine_like_centred_backward(
    Given* given, const Element* g, const Element* x, const Element* W, const Element* b, const Element* f, Element* dx,
    Element* dW, Element* db, Element* room, const double kappa, const double floor, const int threads) {
    const Map map = {kappa, floor, entries_of(*given)};
    given->room = Backward<Map>(map, *given, W, b, room)(g, x, f, dx, dW, db, threads);
}

}  // namespace kernels

FUNCTIONS(FUNCTION(patch_affine_like_centred_forward), FUNCTION(patch_affine_like_centred_backward))
