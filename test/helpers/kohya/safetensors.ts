/** A small valid file, another one for each number of steps. */
export function safetensors(steps: number): Buffer {
  const header = JSON.stringify({
    __metadata__: { ss_steps: String(steps) },
    weight: { dtype: "F32", shape: [4], data_offsets: [0, 16] },
  });
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, Buffer.from(header), Buffer.from(new Float32Array(4).fill(steps).buffer)]);
}
