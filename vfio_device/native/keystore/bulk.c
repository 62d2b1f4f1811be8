/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Publication of fast-path keys.
 *
 * A table maps the two bytes of a key number to a page and a slot. Pages appear on first use and stay until the table
 * goes, so readers need no protection for slots. A slot's state word counts readers in its low half and has one of the
 * flags ALIVE (usable), DYING (withdrawn, readers left), WIPING (one thread is freeing the context) or none (free).
 * A reader adds itself and looks at the flags of the same atomic operation; whoever takes DYING with no readers to WIPING
 * frees the context. A failed acquire counts as a reader for a moment and so may be the one who has to.
 */
#include "bulk.h"

#include <endian.h>
#include <openssl/aead.h>
#include <openssl/aes.h>
#include <openssl/cipher.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "keystore.h"

enum { PAGE_SLOTS = 256, PAGES = 256, BULK_KEY = 32, XTS_MAX_UNIT = 1 << 24 };
#define ALIVE (UINT64_C(1) << 63)
#define DYING (UINT64_C(1) << 62)
#define WIPING (UINT64_C(1) << 61)
#define FLAGS (ALIVE | DYING | WIPING)

/* In the arena. */
struct context {
  uint8_t key[BULK_KEY];
  AES_KEY encrypt, decrypt;        /* XTS */
  uint8_t length_h[64][AES_BLOCK]; /* GCM: H * x^i, for bit i of the AAD length in bits */
  EVP_CIPHER_CTX *gcm[KS_BULK_WORKERS];
};

struct ks_bulk_key {
  _Atomic uint64_t state;
  struct context *context;
  struct ks_bulk_info info;
  struct ks_object *object; /* guarded by the bulk lock */
};

struct page {
  struct ks_bulk_key slots[PAGE_SLOTS];
};

struct ks_bulk_table {
  int function;
  struct page *_Atomic pages[PAGES];
};

static pthread_mutex_t bulk_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint64_t published;

uint64_t ks_bulk_count(void) { return published; }

ks_bulk_table *ks_bulk_table_new(int function) {
  ks_bulk_table *table = calloc(1, sizeof *table);
  if (table != NULL) {
    table->function = function;
  }
  return table;
}

static void free_context(struct context *context) {
  for (size_t i = 0; i < KS_BULK_WORKERS; i++) {
    EVP_CIPHER_CTX_free(context->gcm[i]);
  }
  ks_arena_free(context);
}

/* Frees the context of a slot without readers, if nobody else does. */
static void try_wipe(struct ks_bulk_key *key) {
  uint64_t expected = DYING;
  if (atomic_compare_exchange_strong(&key->state, &expected, WIPING)) {
    free_context(key->context);
    key->context = NULL;
    atomic_fetch_and(&key->state, ~FLAGS);
  }
}

struct ks_bulk_key *ks_bulk_acquire(ks_bulk_table *table, uint32_t key_id) {
  if (key_id >= PAGES * PAGE_SLOTS) {
    return NULL;
  }
  struct page *page = atomic_load_explicit(&table->pages[key_id / PAGE_SLOTS], memory_order_acquire);
  if (page == NULL) {
    return NULL;
  }
  struct ks_bulk_key *key = &page->slots[key_id % PAGE_SLOTS];
  if (atomic_fetch_add(&key->state, 1) & ALIVE) {
    return key;
  }
  ks_bulk_release(key);
  return NULL;
}

void ks_bulk_release(struct ks_bulk_key *key) {
  if (atomic_fetch_sub(&key->state, 1) == DYING + 1) {
    try_wipe(key);
  }
}

struct ks_bulk_info ks_bulk_info(const struct ks_bulk_key *key) { return key->info; }

bool ks_bulk_deleted(const struct ks_bulk_key *key) {
  return (atomic_load_explicit(&key->state, memory_order_acquire) & ALIVE) == 0;
}

bool ks_bulk_equal(const struct ks_bulk_key *a, const struct ks_bulk_key *b) {
  return CRYPTO_memcmp(a->context->key, b->context->key, BULK_KEY) == 0;
}

/* x * block in GCM's field: bits are numbered from the most significant one of byte 0. */
static void gcm_double(uint8_t block[AES_BLOCK]) {
  uint8_t carry = 0;
  for (size_t i = 0; i < AES_BLOCK; i++) {
    uint8_t next = block[i] & 1;
    block[i] = (uint8_t)(block[i] >> 1 | carry << 7);
    carry = next;
  }
  block[0] ^= (uint8_t)(-carry & 0xe1);
}

/* The AAD length in bits is the big-endian high half of the length block: its bit i is the coefficient of x^(63-i). */
static void prepare_length_powers(struct context *context) {
  uint8_t power[AES_BLOCK] = {0};
  AES_encrypt(power, power, &context->encrypt);
  for (size_t i = 0; i < 64; i++) {
    memcpy(context->length_h[63 - i], power, AES_BLOCK);
    gcm_double(power);
  }
  ks_wipe(power, sizeof power);
}

static struct context *prepare(const uint8_t *key, int type) {
  struct context *context = ks_arena_alloc(sizeof *context);
  if (context == NULL) {
    return NULL;
  }
  memcpy(context->key, key, BULK_KEY);
  AES_set_encrypt_key(key, 8 * BULK_KEY, &context->encrypt);
  if (type == KS_BULK_XTS) {
    AES_set_decrypt_key(key, 8 * BULK_KEY, &context->decrypt);
  } else {
    prepare_length_powers(context);
  }
  return context;
}

static void pause_briefly(void) {
  const struct timespec pause = {.tv_nsec = 20000};
  nanosleep(&pause, NULL);
}

/* With the bulk lock held. */
static int publish(ks_bulk_table *table, uint32_t key_id, struct ks_object *object, struct ks_bulk_info info) {
  struct page *page = atomic_load(&table->pages[key_id / PAGE_SLOTS]);
  if (page == NULL) {
    page = calloc(1, sizeof *page);
    if (page == NULL) {
      return KS_NOMEM;
    }
    atomic_store_explicit(&table->pages[key_id / PAGE_SLOTS], page, memory_order_release);
  }
  struct ks_bulk_key *key = &page->slots[key_id % PAGE_SLOTS];
  if (object->published != NULL || atomic_load(&key->state) & ALIVE) {
    return KS_ARG;
  }
  while (atomic_load(&key->state) & FLAGS) { /* a command on the key that had this number is still running */
    pause_briefly();
  }
  struct context *context = prepare(object->bytes, info.type);
  if (context == NULL) {
    return KS_NOMEM;
  }
  key->context = context;
  key->info = info;
  key->object = object;
  object->published = table;
  object->key_id = key_id;
  atomic_fetch_or(&key->state, ALIVE);
  atomic_fetch_add(&published, 1);
  return KS_OK;
}

int ks_bulk_publish(ks_bulk_table *table, uint32_t key_id, uint64_t key, int type, uint32_t session_id, uint32_t app_id,
                    int session_only) {
  if (key_id >= PAGES * PAGE_SLOTS || type < KS_BULK_XTS || type > KS_BULK_GCM_UNAPPROVED || session_id > UINT16_MAX ||
      app_id > UINT8_MAX) {
    return KS_ARG;
  }
  struct ks_object *object;
  int status = ks_acquire(key, SECRET_KIND, &object);
  if (status != KS_OK) {
    return status;
  }
  if (object->size != BULK_KEY) {
    status = KS_SIZE;
  } else {
    struct ks_bulk_info info = {.session_id = (uint16_t)session_id,
                                .app_id = (uint8_t)app_id,
                                .type = (uint8_t)type,
                                .session_only = session_only != 0};
    pthread_mutex_lock(&bulk_lock);
    status = publish(table, key_id, object, info);
    pthread_mutex_unlock(&bulk_lock);
  }
  int kind, curve;
  size_t size;
  if (status == KS_OK && ks_describe(key, &kind, &size, &curve) != KS_OK) {
    ks_bulk_forget(object); /* destroyed between the two locks */
    status = KS_STALE;
  }
  ks_release(object);
  ks_burn_stack(BURN_LIGHT);
  return status;
}

/* With the bulk lock held. */
static bool withdraw(ks_bulk_table *table, uint32_t key_id) {
  struct page *page = atomic_load(&table->pages[key_id / PAGE_SLOTS]);
  struct ks_bulk_key *key = page == NULL ? NULL : &page->slots[key_id % PAGE_SLOTS];
  if (key == NULL || (atomic_load(&key->state) & ALIVE) == 0) {
    return false;
  }
  key->object->published = NULL;
  key->object = NULL;
  atomic_fetch_sub(&published, 1);
  if (atomic_fetch_xor(&key->state, ALIVE | DYING) == ALIVE) {
    try_wipe(key);
  }
  return true;
}

int ks_bulk_withdraw(ks_bulk_table *table, uint32_t key_id) {
  bool found = false;
  if (key_id < PAGES * PAGE_SLOTS) {
    pthread_mutex_lock(&bulk_lock);
    found = withdraw(table, key_id);
    pthread_mutex_unlock(&bulk_lock);
  }
  return found ? KS_OK : KS_STALE;
}

void ks_bulk_forget(struct ks_object *object) {
  pthread_mutex_lock(&bulk_lock);
  if (object->published != NULL) {
    withdraw(object->published, object->key_id);
  }
  pthread_mutex_unlock(&bulk_lock);
}

void ks_bulk_table_free(ks_bulk_table *table) {
  if (table == NULL) {
    return;
  }
  pthread_mutex_lock(&bulk_lock);
  for (uint32_t i = 0; i < PAGES; i++) {
    struct page *page = atomic_load(&table->pages[i]);
    for (uint32_t j = 0; page != NULL && j < PAGE_SLOTS; j++) {
      withdraw(table, i * PAGE_SLOTS + j);
      while (atomic_load(&page->slots[j].state) != 0) {
        pause_briefly();
      }
    }
    free(page);
  }
  pthread_mutex_unlock(&bulk_lock);
  free(table);
}

/* The context of a worker, made at its first use of the key. */
static EVP_CIPHER_CTX *gcm_context(struct ks_bulk_key *key, unsigned worker) {
  struct context *context = key->context;
  if (worker >= KS_BULK_WORKERS) {
    return NULL;
  }
  if (context->gcm[worker] == NULL) {
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx != NULL && !EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, context->key, NULL, 1)) {
      EVP_CIPHER_CTX_free(ctx);
      ctx = NULL;
    }
    context->gcm[worker] = ctx;
    ks_burn_stack(BURN_LIGHT);
  }
  return context->gcm[worker];
}

bool ks_gcm_start(struct ks_bulk_key *key, unsigned worker, bool encrypt, const uint8_t iv[12]) {
  EVP_CIPHER_CTX *ctx = gcm_context(key, worker);
  return ctx != NULL && EVP_CipherInit_ex(ctx, NULL, NULL, NULL, iv, encrypt) == 1;
}

bool ks_gcm_aad(struct ks_bulk_key *key, unsigned worker, const uint8_t *aad, size_t size) {
  int written;
  return size <= INT32_MAX && EVP_CipherUpdate(key->context->gcm[worker], NULL, &written, aad, (int)size) == 1;
}

bool ks_gcm_update(struct ks_bulk_key *key, unsigned worker, const uint8_t *in, uint8_t *out, size_t size) {
  int written;
  return size <= INT32_MAX && EVP_CipherUpdate(key->context->gcm[worker], out, &written, in, (int)size) == 1;
}

bool ks_gcm_tag(struct ks_bulk_key *key, unsigned worker, uint8_t tag[16]) {
  EVP_CIPHER_CTX *ctx = key->context->gcm[worker];
  uint8_t nothing[1];
  int written;
  return EVP_CipherFinal_ex(ctx, nothing, &written) == 1 &&
         EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AES_BLOCK, tag) == 1;
}

bool ks_gcm_matches(struct ks_bulk_key *key, unsigned worker, const uint8_t tag[16]) {
  EVP_CIPHER_CTX *ctx = key->context->gcm[worker];
  uint8_t expected[AES_BLOCK], nothing[1];
  int written;
  memcpy(expected, tag, sizeof expected);
  bool matches = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AES_BLOCK, expected) == 1 &&
                 EVP_CipherFinal_ex(ctx, nothing, &written) == 1;
  if (!matches) {
    ERR_clear_error();
  }
  return matches;
}

void ks_gcm_exchange_aad_length(const struct ks_bulk_key *key, uint64_t aad_a, uint64_t aad_b, uint8_t tag[16]) {
  for (uint64_t bits = 8 * aad_a ^ 8 * aad_b; bits != 0; bits &= bits - 1) {
    const uint8_t *power = key->context->length_h[__builtin_ctzll(bits)];
    for (size_t i = 0; i < AES_BLOCK; i++) {
      tag[i] ^= power[i];
    }
  }
}

#if defined(__x86_64__) || defined(__aarch64__)
/* The library's own XTS over prepared key schedules, which its public interface does not offer. It may be called only
 * where AES instructions exist (EVP_has_aes_hardware), for then AES_set_encrypt_key made schedules of its form. */
int aes_hw_xts_cipher(const uint8_t *in, uint8_t *out, size_t length, const AES_KEY *key1, const AES_KEY *key2,
                      const uint8_t iv[16], int enc);

static bool hardware_xts(const struct context *data, const struct context *tweak_context, bool encrypt,
                         const uint8_t tweak[16], const uint8_t *in, uint8_t *out, size_t size, bool *ok) {
  if (!EVP_has_aes_hardware()) {
    return false;
  }
  *ok = aes_hw_xts_cipher(in, out, size, encrypt ? &data->encrypt : &data->decrypt, &tweak_context->encrypt, tweak,
                          encrypt) == 1;
  return true;
}
#else
static bool hardware_xts(const struct context *data, const struct context *tweak_context, bool encrypt,
                         const uint8_t tweak[16], const uint8_t *in, uint8_t *out, size_t size, bool *ok) {
  (void)data, (void)tweak_context, (void)encrypt, (void)tweak, (void)in, (void)out, (void)size, (void)ok;
  return false;
}
#endif

bool ks_xts_unit(const struct ks_bulk_key *data_key, const struct ks_bulk_key *tweak_key, bool encrypt,
                 const uint8_t tweak[16], const uint8_t *in, uint8_t *out, size_t size) {
  const struct context *data = data_key->context, *tweak_context = tweak_key->context;
  bool ok;
  if (size == 0 || size % AES_BLOCK != 0 || size > XTS_MAX_UNIT) {
    return false;
  }
  if (hardware_xts(data, tweak_context, encrypt, tweak, in, out, size, &ok)) {
    return ok;
  }
  uint8_t joined[2 * BULK_KEY];
  int written;
  memcpy(joined, data->key, BULK_KEY);
  memcpy(joined + BULK_KEY, tweak_context->key, BULK_KEY);
  EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
  ok = ctx != NULL && EVP_CipherInit_ex(ctx, EVP_aes_256_xts(), NULL, joined, tweak, encrypt) == 1 &&
       EVP_CipherUpdate(ctx, out, &written, in, (int)size) == 1;
  EVP_CIPHER_CTX_free(ctx);
  ks_wipe(joined, sizeof joined);
  ERR_clear_error();
  return ok;
}

void ks_xts_advance(const struct ks_bulk_key *tweak_key, const uint8_t tweak[16], size_t blocks, uint8_t next[16]) {
  uint8_t mask[AES_BLOCK];
  AES_encrypt(tweak, mask, &tweak_key->context->encrypt);
  uint64_t low, high;
  memcpy(&low, mask, 8);
  memcpy(&high, mask + 8, 8);
  low = le64toh(low);
  high = le64toh(high);
  for (; blocks > 0; blocks--) { /* times x in GF(2^128), little-endian (IEEE 1619) */
    uint64_t carry = high >> 63;
    high = high << 1 | low >> 63;
    low = low << 1 ^ (-carry & 0x87);
  }
  low = htole64(low);
  high = htole64(high);
  memcpy(mask, &low, 8);
  memcpy(mask + 8, &high, 8);
  AES_decrypt(mask, next, &tweak_key->context->decrypt);
  ks_wipe(mask, sizeof mask);
}
