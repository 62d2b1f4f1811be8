/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* P-256, P-384, P-521, and the validation of points on them with separate verdicts. */
#include "keystore.h"

#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>

size_t ks_coordinate(int curve) {
    static const size_t sizes[] = {0, 32, 48, MAX_COORDINATE};
    return curve >= CURVE_P256 && curve <= CURVE_P521 ? sizes[curve] : 0;
}

const EC_GROUP *ks_group(int curve) {
    switch (curve) {
    case CURVE_P256:
        return EC_group_p256();
    case CURVE_P384:
        return EC_group_p384();
    case CURVE_P521:
        return EC_group_p521();
    default:
        return NULL;
    }
}

/* Whether 0 < coordinate < p. */
static int check_range(const EC_GROUP *group, const uint8_t *coordinate, size_t size) {
    BIGNUM *p = BN_new(), *value = BN_bin2bn(coordinate, size, NULL);
    int status = KS_NOMEM;
    if (p != NULL && value != NULL && EC_GROUP_get_curve_GFp(group, p, NULL, NULL, NULL))
        status = BN_is_zero(value) || BN_cmp(value, p) >= 0 ? KS_POINT_RANGE : KS_OK;
    BN_free(p);
    BN_free(value);
    return status;
}

int ks_point(int curve, const uint8_t *point, size_t size, EC_POINT **out) {
    const EC_GROUP *group = ks_group(curve);
    size_t half = ks_coordinate(curve);
    *out = NULL;
    if (group == NULL)
        return KS_ARG;
    if (size == 1 && point[0] == 0)
        return KS_POINT_INFINITY;
    if (size != 1 + 2 * half || point[0] != POINT_CONVERSION_UNCOMPRESSED)
        return KS_LENGTH;
    int status = check_range(group, point + 1, half);
    if (status == KS_OK)
        status = check_range(group, point + 1 + half, half);
    if (status != KS_OK)
        return status;
    *out = EC_POINT_new(group);
    if (*out == NULL)
        return KS_NOMEM;
    if (!EC_POINT_oct2point(group, *out, point, size, NULL)) {
        ERR_clear_error();
        EC_POINT_free(*out);
        *out = NULL;
        return KS_POINT_CURVE;
    }
    return KS_OK;
}

int ks_ec_check_point(int curve, const uint8_t *point, size_t size) {
    EC_POINT *parsed;
    int status = ks_point(curve, point, size, &parsed);
    EC_POINT_free(parsed);
    return status;
}
