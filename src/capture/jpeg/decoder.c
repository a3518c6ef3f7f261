/* One JPEG through libjpeg-turbo, for decoder.rs.
 *
 * libjpeg reports a failure by a call that must not return. Here it ends in a longjmp to the
 * function that Rust called, so it never crosses a frame of Rust. Nothing is printed.
 *
 * A warning of libjpeg is a failure too: it means that data are missing or make no sense, and that
 * the pixels from there on are invented. Only the missing end marker is not left to libjpeg, which
 * warns of it whether or not anything is missing: the end of the bytes is given to it as an end
 * marker, and what that cut off shows as missing data.
 */

#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>
#include <jerror.h>

/* Keep in step with decoder.rs. */
enum outcome {
  WHOLE = 0,
  DAMAGED = 1,
  UNSUPPORTED = 2,
  NO_MEMORY = 3
};

struct vovcam_jpeg {
  struct jpeg_decompress_struct info;
  struct jpeg_error_mgr errors;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  jmp_buf failed;
  char message[JMSG_LENGTH_MAX];
  enum outcome outcome;
  int most_scans;
  /* Surplus bytes before a restart or end marker that are no damage. */
  int most_surplus;
};

static struct vovcam_jpeg *owner(j_common_ptr info) {
  return (struct vovcam_jpeg *)info->client_data;
}

static _Noreturn void fail(struct vovcam_jpeg *jpeg, enum outcome outcome) {
  jpeg->outcome = outcome;
  longjmp(jpeg->failed, 1);
}

static _Noreturn void fail_with(struct vovcam_jpeg *jpeg, enum outcome outcome,
                                const char *message, int number) {
  snprintf(jpeg->message, sizeof jpeg->message, message, number);
  fail(jpeg, outcome);
}

static enum outcome outcome_of(int code) {
  switch (code) {
  case JERR_BAD_PRECISION:
  case JERR_CCIR601_NOTIMPL:
  case JERR_COMPONENT_COUNT:
  case JERR_CONVERSION_NOTIMPL:
  case JERR_EMPTY_IMAGE:
  case JERR_FRACT_SAMPLE_NOTIMPL:
  case JERR_NOTIMPL:
  case JERR_NOT_COMPILED:
  case JERR_SOF_UNSUPPORTED:
    return UNSUPPORTED;
  case JERR_OUT_OF_MEMORY:
    return NO_MEMORY;
  default:
    return DAMAGED;
  }
}

static void error_exit(j_common_ptr info) {
  struct vovcam_jpeg *jpeg = owner(info);
  info->err->format_message(info, jpeg->message);
  fail(jpeg, outcome_of(info->err->msg_code));
}

static int is_surplus(const struct vovcam_jpeg *jpeg) {
  const struct jpeg_error_mgr *errors = &jpeg->errors;
  int count = errors->msg_parm.i[0], marker = errors->msg_parm.i[1];
  /* 0xd0 to 0xd7 are restart markers, 0xd9 is the end */
  return errors->msg_code == JWRN_EXTRANEOUS_DATA && count <= jpeg->most_surplus &&
         ((marker >= 0xd0 && marker <= 0xd7) || marker == 0xd9);
}

static void emit_message(j_common_ptr info, int level) {
  if (level < 0 && !is_surplus(owner(info))) {
    error_exit(info);
  }
}

static void nothing(j_decompress_ptr info) {
  (void)info;
}

static boolean fill_input_buffer(j_decompress_ptr info) {
  static const JOCTET END[2] = {0xff, JPEG_EOI};
  info->src->next_input_byte = END;
  info->src->bytes_in_buffer = sizeof END;
  return TRUE;
}

static void skip_input_data(j_decompress_ptr info, long count) {
  if (count <= 0) {
    return;
  }
  if ((size_t)count > info->src->bytes_in_buffer) {
    fill_input_buffer(info);
    return;
  }
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= (size_t)count;
}

static void progress_monitor(j_common_ptr info) {
  struct vovcam_jpeg *jpeg = owner(info);
  if (jpeg->info.input_scan_number > jpeg->most_scans) {
    fail_with(jpeg, UNSUPPORTED, "more than %d scans", jpeg->most_scans);
  }
}

void vovcam_jpeg_close(struct vovcam_jpeg *jpeg) {
  if (jpeg != NULL) {
    jpeg_destroy_decompress(&jpeg->info);
    free(jpeg);
  }
}

static int create(struct vovcam_jpeg *jpeg) {
  if (setjmp(jpeg->failed)) {
    return 0;
  }
  jpeg_create_decompress(&jpeg->info);
  return 1;
}

/* Null when there is no memory. `bytes` must stay where they are until the last call. */
struct vovcam_jpeg *vovcam_jpeg_open(const unsigned char *bytes, size_t len, int most_scans,
                                     int most_surplus) {
  struct vovcam_jpeg *jpeg = calloc(1, sizeof *jpeg);
  if (jpeg == NULL) {
    return NULL;
  }
  jpeg->most_scans = most_scans;
  jpeg->most_surplus = most_surplus;
  jpeg->info.err = jpeg_std_error(&jpeg->errors);
  jpeg->errors.error_exit = error_exit;
  jpeg->errors.emit_message = emit_message;
  jpeg->info.client_data = jpeg; /* jpeg_create_decompress keeps it and err */
  if (!create(jpeg)) {
    vovcam_jpeg_close(jpeg);
    return NULL;
  }
  jpeg->progress.progress_monitor = progress_monitor;
  jpeg->info.progress = &jpeg->progress;
  jpeg->source.init_source = nothing;
  jpeg->source.fill_input_buffer = fill_input_buffer;
  jpeg->source.skip_input_data = skip_input_data;
  jpeg->source.resync_to_restart = jpeg_resync_to_restart;
  jpeg->source.term_source = nothing;
  jpeg->source.next_input_byte = bytes;
  jpeg->source.bytes_in_buffer = len;
  jpeg->info.src = &jpeg->source;
  return jpeg;
}

const char *vovcam_jpeg_message(const struct vovcam_jpeg *jpeg) {
  return jpeg->message;
}

/* Reads up to the first scan. */
int vovcam_jpeg_header(struct vovcam_jpeg *jpeg, unsigned *width, unsigned *height) {
  if (setjmp(jpeg->failed)) {
    return jpeg->outcome;
  }
  jpeg_read_header(&jpeg->info, TRUE);
  if (jpeg->info.arith_code) {
    /* its data may end anywhere: libjpeg decodes what is missing as zeros, without a warning */
    fail_with(jpeg, UNSUPPORTED, "arithmetic coding (SOF type 0x%02x)",
              jpeg->info.progressive_mode ? 0xca : 0xc9);
  }
  if (jpeg->info.out_color_space == JCS_UNKNOWN) {
    fail_with(jpeg, UNSUPPORTED, "%d colour components", jpeg->info.num_components);
  }
  *width = jpeg->info.image_width;
  *height = jpeg->info.image_height;
  return WHOLE;
}

/* Reads rows of CMYK or YCCK, which libjpeg does not convert to RGB. Values are inverted, as Adobe's
 * programs write them and as djpeg and others take them, with and without Adobe's marker. */
static void read_inverted_cmyk(struct vovcam_jpeg *jpeg, unsigned char *rgb, size_t stride) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  JSAMPARRAY row = info->mem->alloc_sarray((j_common_ptr)info, JPOOL_IMAGE,
                                           4 * info->output_width, 1);
  while (info->output_scanline < info->output_height) {
    unsigned char *to = rgb + info->output_scanline * stride;
    const unsigned char *from = row[0];
    jpeg_read_scanlines(info, row, 1);
    for (JDIMENSION x = 0; x < info->output_width; x++, from += 4, to += 3) {
      for (int i = 0; i < 3; i++) {
        to[i] = (unsigned char)((from[i] * from[3] + 127) / 255);
      }
    }
  }
}

static void read_rgb(struct vovcam_jpeg *jpeg, unsigned char *rgb, size_t stride) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  while (info->output_scanline < info->output_height) {
    JSAMPROW rows[16];
    JDIMENSION left = info->output_height - info->output_scanline;
    JDIMENSION count = left < 16 ? left : 16;
    for (JDIMENSION i = 0; i < count; i++) {
      rows[i] = rgb + (info->output_scanline + i) * stride;
    }
    jpeg_read_scanlines(info, rows, count);
  }
}

/* What libjpeg has no warning for. */
static void check_complete(struct vovcam_jpeg *jpeg) {
  const struct jpeg_decompress_struct *info = &jpeg->info;
  for (int i = 0; i < info->num_components; i++) {
    /* libjpeg keeps a component's quantization table when it meets its first scan */
    if (info->comp_info[i].quant_table == NULL) {
      fail_with(jpeg, DAMAGED, "colour component %d has no scan", i + 1);
    }
    /* Bits of coefficients that are still to come. The standard lets an encoder leave them out, but
     * none does, and each version of libjpeg makes up others for them. */
    for (int k = 0; info->progressive_mode && k < DCTSIZE2; k++) {
      if (info->coef_bits[i][k] != 0) {
        fail_with(jpeg, DAMAGED, "it ends after %d scans, before its last", info->input_scan_number);
      }
    }
  }
}

/* Decodes rows of RGB, `stride` bytes apart. */
int vovcam_jpeg_decode(struct vovcam_jpeg *jpeg, unsigned char *rgb, size_t stride) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  if (setjmp(jpeg->failed)) {
    return jpeg->outcome;
  }
  int inverted_cmyk = info->out_color_space == JCS_CMYK;
  if (!inverted_cmyk) {
    info->out_color_space = JCS_RGB;
  }
  jpeg_start_decompress(info);
  if (inverted_cmyk) {
    read_inverted_cmyk(jpeg, rgb, stride);
  } else {
    read_rgb(jpeg, rgb, stride);
  }
  check_complete(jpeg);
  jpeg_finish_decompress(info);
  return WHOLE;
}
