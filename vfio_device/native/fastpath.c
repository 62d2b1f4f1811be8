/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* AES commands of a function that holds no key: refused in the order of the fast path's checks (spec 02 E.3). */
#include "fastpath.h"

static uint16_t status(unsigned sts) { return (uint16_t)(sts << IHSM_PSF_STATUS_SHIFT); }

void ihsm_fp_execute(struct ihsm_fp_context *context, const struct gcm_sqe *sqe, struct aes_cqe *cqe) {
    (void)context;
    const uint32_t largest_key_number = UINT16_MAX;
    if ((sqe->attr >> IHSM_AES_ATTR_CIPHER_SHIFT & IHSM_AES_ATTR_CIPHER_MASK) == IHSM_CIPHER_XTS) {
        const struct xts_sqe *xts = (const struct xts_sqe *)sqe;
        cqe->psf = status(IHSM_AES_STATUS_INVALID_FIELD_XTS);
        cqe->err = xts->key_id1 > largest_key_number   ? IHSM_XTS_ERROR_KEY1_INDEX
                   : xts->key_id2 > largest_key_number ? IHSM_XTS_ERROR_KEY2_INDEX
                   : xts->key_id1 == xts->key_id2      ? IHSM_XTS_ERROR_SAME_INDEX
                                                       : IHSM_XTS_ERROR_KEY_NOT_OWNED;
        return;
    }
    cqe->psf = status(IHSM_AES_STATUS_INVALID_FIELD_GCM);
    for (unsigned i = 0; i < sizeof cqe->iv; i++)
        cqe->iv[i] = sqe->iv[i];
    cqe->err = sqe->aligned_aad_len % IHSM_GCM_AAD_ALIGNMENT_BYTES != 0 ? IHSM_GCM_ERROR_AAD_ALIGNMENT
               : sqe->key_id > largest_key_number                       ? IHSM_GCM_ERROR_KEY_INDEX
                                                                        : IHSM_GCM_ERROR_KEY_NOT_OWNED;
}
