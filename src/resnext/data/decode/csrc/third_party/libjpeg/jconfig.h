/* What jpeglib.h asks about the library it describes. Ours: the values that fix the layout of its structs. */
#ifndef JPEG_LIB_VERSION
#define JPEG_LIB_VERSION 62 /* the ABI: 62 in Pillow's wheels and Debian, 80 in Ubuntu */
#endif
#define D_ARITH_CODING_SUPPORTED 1
#define C_ARITH_CODING_SUPPORTED 1
#define MEM_SRCDST_SUPPORTED 1
#define BITS_IN_JSAMPLE 8
