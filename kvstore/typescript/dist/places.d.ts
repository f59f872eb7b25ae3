/** So many at a time; the others wait for their turn, in the order in which they came. */
export declare class Places {
    #private;
    constructor(count: number);
    run<T>(work: () => Promise<T>): Promise<T>;
}
