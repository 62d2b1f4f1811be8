/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Keys at rest: sealed blobs (AES-256-GCM) and the file of the device-unique secret. */
#include "keystore.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/mem.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sealed: "KS" version kind, param u32 LE, nonce 12, ciphertext, tag 16. The first 8 bytes are authenticated too. */
enum { SEAL_HEAD = 8, SEAL_VERSION = 1 };
_Static_assert(SEAL_HEAD + GCM_NONCE + GCM_TAG == KS_SEAL_OVERHEAD, "overhead");

static int run_aead(bool seal, const struct ks_object *sealing, uint8_t *blob, size_t size, const uint8_t *ad,
                    size_t ad_size, uint8_t *plain) {
    size_t body = size - KS_SEAL_OVERHEAD;
    size_t all_ad = SEAL_HEAD + ad_size;
    uint8_t *joined = ks_arena_alloc(all_ad);
    int status = KS_NOMEM;
    if (joined != NULL) {
        const uint8_t *nonce = blob + SEAL_HEAD;
        uint8_t *text = blob + SEAL_HEAD + GCM_NONCE;
        memcpy(joined, blob, SEAL_HEAD);
        if (ad_size != 0)
            memcpy(joined + SEAL_HEAD, ad, ad_size);
        status = ks_gcm(seal, sealing->bytes, nonce, joined, all_ad, seal ? plain : text, seal ? text : plain, body,
                        text + body);
    }
    ks_arena_free(joined);
    return status;
}

static int acquire_sealing(uint64_t handle, struct ks_object **object) {
    int status = ks_acquire(handle, SECRET_KIND, object);
    if (status == KS_OK && (*object)->size != GCM_KEY) {
        ks_release(*object);
        *object = NULL;
        status = KS_SIZE;
    }
    return status;
}

int ks_seal(uint64_t key, uint64_t sealing_key, const uint8_t *ad, size_t ad_size, uint8_t *out, size_t *size) {
    struct ks_object *object, *sealing = NULL;
    int status = ks_acquire(key, ANY_KIND, &object);
    if (status != KS_OK)
        return status;
    status = acquire_sealing(sealing_key, &sealing);
    if (status == KS_OK) {
        size_t plain_size = ks_form_size(object);
        uint32_t param = object->kind == KS_KIND_SECRET ? (uint32_t)object->size
                         : object->kind == KS_KIND_EC   ? (uint32_t)object->curve
                                                        : (uint32_t)(8 * object->size);
        const uint8_t head[SEAL_HEAD] = {'K',
                                         'S',
                                         SEAL_VERSION,
                                         (uint8_t)object->kind,
                                         (uint8_t)param,
                                         (uint8_t)(param >> 8),
                                         (uint8_t)(param >> 16),
                                         (uint8_t)(param >> 24)};
        uint8_t *plain = ks_arena_alloc(plain_size);
        memcpy(out, head, SEAL_HEAD);
        status = plain == NULL ? KS_NOMEM : ks_draw(out + SEAL_HEAD, GCM_NONCE);
        if (status == KS_OK)
            status = ks_form_write(object, plain);
        if (status == KS_OK) {
            *size = plain_size + KS_SEAL_OVERHEAD;
            status = run_aead(true, sealing, out, *size, ad, ad_size, plain);
        }
        ks_arena_free(plain);
    }
    ks_release(sealing);
    ks_release(object);
    ks_burn_stack(BURN_HEAVY);
    return status;
}

int ks_unseal(const uint8_t *blob, size_t size, uint64_t sealing_key, const uint8_t *ad, size_t ad_size, uint64_t owner,
              uint64_t *key) {
    if (size < KS_SEAL_OVERHEAD || memcmp(blob, "KS", 2) != 0 || blob[2] != SEAL_VERSION || blob[7] != 0)
        return KS_DECODE;
    int kind = blob[3];
    int param = blob[4] | blob[5] << 8 | blob[6] << 16;
    size_t plain_size = ks_form_size_of(kind, param);
    if (plain_size == 0 || size != plain_size + KS_SEAL_OVERHEAD)
        return KS_DECODE;
    struct ks_object *sealing, *object = NULL;
    int status = acquire_sealing(sealing_key, &sealing);
    if (status != KS_OK)
        return status;
    uint8_t *plain = ks_arena_alloc(plain_size), *copy = ks_arena_alloc(size);
    if (plain == NULL || copy == NULL) {
        status = KS_NOMEM;
    } else {
        memcpy(copy, blob, size);
        status = run_aead(false, sealing, copy, size, ad, ad_size, plain);
    }
    if (status == KS_OK)
        status = ks_form_read(kind, param, plain, &object);
    ks_arena_free(plain);
    ks_arena_free(copy);
    ks_release(sealing);
    ks_burn_stack(BURN_HEAVY);
    return status != KS_OK ? status : ks_register(object, owner, key);
}

/* The file: "IHSMKEY" version, secret, SHA-256 of both. */
enum { FILE_MAGIC = 8, DEVICE_SECRET = 48, FILE_SIZE = FILE_MAGIC + DEVICE_SECRET + SHA256_DIGEST_LENGTH };
static const uint8_t file_magic[FILE_MAGIC] = {'I', 'H', 'S', 'M', 'K', 'E', 'Y', 1};

static bool write_all(int fd, const uint8_t *bytes, size_t size) {
    while (size > 0) {
        ssize_t written = write(fd, bytes, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        size -= (size_t)written;
    }
    return true;
}

static bool read_all(int fd, uint8_t *bytes, size_t size) {
    while (size > 0) {
        ssize_t got = read(fd, bytes, size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        bytes += got;
        size -= (size_t)got;
    }
    return true;
}

static bool sync_directory(const char *path) {
    char *directory = strdup(path);
    if (directory == NULL)
        return false;
    char *slash = strrchr(directory, '/');
    if (slash != NULL)
        slash[1] = 0;
    int fd = open(slash == NULL ? "." : directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    free(directory);
    return ok;
}

/* Writes a new file that is either absent or complete: a temporary file is linked to the name once it is durable. */
static bool create_file(const char *path, const uint8_t *bytes, size_t size) {
    char *temporary = NULL;
    if (asprintf(&temporary, "%s.new", path) < 0) {
        errno = ENOMEM;
        return false;
    }
    unlink(temporary); /* what a killed process left */
    int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, S_IRUSR | S_IWUSR);
    bool ok = fd >= 0 && fchmod(fd, S_IRUSR | S_IWUSR) == 0 && write_all(fd, bytes, size) && fsync(fd) == 0 &&
              link(temporary, path) == 0;
    int saved = errno;
    if (fd >= 0) {
        close(fd);
        unlink(temporary);
    }
    if (ok) {
        ok = sync_directory(path);
        saved = errno;
    }
    free(temporary);
    errno = saved;
    return ok;
}

int ks_create_device_secret(const char *path, uint64_t owner, uint64_t *key, int *error) {
    uint8_t *file = ks_arena_alloc(FILE_SIZE);
    struct ks_object *object = ks_secret_new(DEVICE_SECRET);
    int status = file == NULL || object == NULL ? KS_NOMEM : ks_draw(object->bytes, DEVICE_SECRET);
    *error = 0;
    if (status == KS_OK) {
        memcpy(file, file_magic, FILE_MAGIC);
        memcpy(file + FILE_MAGIC, object->bytes, DEVICE_SECRET);
        SHA256(file, FILE_MAGIC + DEVICE_SECRET, file + FILE_MAGIC + DEVICE_SECRET);
        if (!create_file(path, file, FILE_SIZE)) {
            *error = errno;
            status = KS_IO;
        }
    }
    ks_arena_free(file);
    ks_burn_stack(BURN_LIGHT);
    if (status != KS_OK) {
        ks_object_free(object);
        return status;
    }
    return ks_register(object, owner, key);
}

static int read_file(const char *path, uint8_t *file, int *error) {
    /* Neither a link is followed nor a pipe waited for. */
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        *error = errno;
        return errno == ELOOP ? KS_PERMISSION : KS_IO;
    }
    struct stat info;
    int status = KS_OK;
    errno = 0;
    if (fstat(fd, &info) != 0)
        status = KS_IO;
    else if (!S_ISREG(info.st_mode) || info.st_uid != geteuid() || (info.st_mode & 07177) != 0)
        status = KS_PERMISSION;
    else if (info.st_size != FILE_SIZE)
        status = KS_STATE_FORMAT;
    else if (!read_all(fd, file, FILE_SIZE))
        status = KS_IO;
    *error = errno;
    close(fd);
    return status;
}

int ks_load_device_secret(const char *path, uint64_t owner, uint64_t *key, int *error) {
    uint8_t *file = ks_arena_alloc(FILE_SIZE);
    struct ks_object *object = NULL;
    *error = 0;
    int status = file == NULL ? KS_NOMEM : read_file(path, file, error);
    if (status == KS_OK) {
        uint8_t digest[SHA256_DIGEST_LENGTH];
        SHA256(file, FILE_MAGIC + DEVICE_SECRET, digest);
        if (memcmp(file, file_magic, FILE_MAGIC) != 0 ||
            CRYPTO_memcmp(digest, file + FILE_MAGIC + DEVICE_SECRET, sizeof digest) != 0) {
            status = KS_STATE_FORMAT;
        } else if ((object = ks_secret_new(DEVICE_SECRET)) != NULL) {
            memcpy(object->bytes, file + FILE_MAGIC, DEVICE_SECRET);
        }
        ks_wipe(digest, sizeof digest);
    }
    ks_arena_free(file);
    ks_burn_stack(BURN_LIGHT);
    return status != KS_OK ? status : ks_register(object, owner, key);
}
