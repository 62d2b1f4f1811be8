/* SPDX-FileCopyrightText: The ihsm authors */
/* SPDX-License-Identifier: Apache-2.0 */
/* Python functions that C calls, all on the thread that owns the context and with its mutex held. */
int64_t ihsm_py_region_access(uint64_t handle, int index, char *data, size_t count, int64_t offset, bool is_write);
int ihsm_py_reset(uint64_t handle, int type);
/* A write to configuration space has put the locked interface into the state ERROR. */
void ihsm_py_interface_failed(uint64_t handle);
/* device and inode: of the file that has been mapped, where the client gave one. */
void ihsm_py_dma(uint64_t handle, bool mapped, uint64_t iova, uint64_t size, bool has_pointer, uint64_t device,
                 uint64_t inode);
/* A file that is not mapped; device_major and device_minor are its file system's number. */
void ihsm_py_refused_memory(uint64_t handle, uint64_t iova, uint64_t size, int fd, unsigned device_major,
                            unsigned device_minor);
/* A region that is refused because of a limit (enum ihsm_vfu_limit). */
void ihsm_py_at_limit(uint64_t handle, int limit);
void ihsm_py_log(uint64_t handle, int level, const char *message);
